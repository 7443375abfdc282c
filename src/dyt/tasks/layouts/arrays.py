"""Images that a published data set has as one array in a file, and files of MATLAB's that may be damaged."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dyt.tasks.bands import Picture, with_channels
from dyt.tasks.layouts.base import DataError, Split, contents_of, some
from dyt.tasks.layouts.matlab import variables

Pixels = npt.NDArray[np.uint8]


def array_split(name: str, file: Path, pixels: Pixels, labels: Sequence[int], classes: int) -> Split:
    """A split of images in memory.

    Args:
        file: where they are from, for errors.
        pixels: (N, H, W, 3) uint8.
        labels: N of them, in [0, classes).

    Raises:
        DataError: nothing in it, other pixels, another number of labels, or labels out of range.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise DataError(f"{file}: pixels are {pixels.dtype} {pixels.shape}; expected 8-bit RGB, uint8 (N, H, W, 3)")
    if not len(pixels):
        raise DataError(f"{file}: no images in it")
    if len(labels) != len(pixels):
        raise DataError(f"{file}: {len(pixels)} images, but {len(labels)} labels; is the file whole?")
    bad = [f"image {i}: {y}" for i, y in enumerate(labels) if not 0 <= y < classes]
    if bad:
        raise DataError(f"{file}: labels that are not among {classes} classes ({some(bad)})")
    return Split(name, tuple(int(y) for y in labels), partial(_image, pixels, str(file)))


def _image(pixels: Pixels, file: str, i: int, channels: int = 3) -> Picture:
    return with_channels(Image.fromarray(pixels[i]), f"{file}, image {i}", channels)


def load_mat(file: Path, *wanted: str) -> tuple[Any, ...]:
    """Variables of a .mat file, as `dyt.tasks.layouts.matlab.variables` has them.

    Raises:
        DataError: missing, empty, damaged, of version 4 or 7.3, or without one of the variables.
    """
    if not file.is_file():
        raise DataError(f"no file '{file}'; {file.parent} has {contents_of(file.parent)}")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: an empty file; download it again")
    try:
        found = variables(file, *wanted)
    except (OSError, ValueError, zlib.error) as error:
        raise DataError(f"{file}: not a readable .mat file ({error}); download it again") from error
    lacking = [name for name in wanted if name not in found]
    if lacking:
        names = some([name for name in found if name]) if any(found) else "nothing"
        raise DataError(f"{file}: no variable {', '.join(lacking)}; it has {names}")
    return tuple(found[name] for name in wanted)
