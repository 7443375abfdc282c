"""Image files with any number of channels, by rule: grey, RGB, or the bands as they lie in the file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from dyt.tasks.images import ARRAY, ImageError, check_pixels, eight_bits, loaded, read_array, to_rgb

Picture: TypeAlias = Image.Image | Tensor
"""Grey or RGB as an image of PIL's; any other number of channels C as (C, H, W) uint8."""


def open_picture(source: str | Path | IO[bytes], channels: int, name: str | None = None) -> Picture:
    """An image file with so many channels of 8 bits.

    1: grey, colours by their luma. 3: RGB. Any other number: the bands of the file as they are, of which it must have
    so many; the pages of a TIFF one behind the other.

    Args:
        source: a path, or an open binary file.
        channels: C.
        name: what to call it in an error; the path by default.

    Raises:
        ImageError: missing, empty, cut off, not an image, of another number of bands, or without a known range.
    """
    name = str(source) if name is None else name
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() == ARRAY:
        return of_array(read_array(Path(source), name), channels, name)
    return loaded(source, partial(with_channels, channels=channels), name)


def with_channels(image: Image.Image, name: str = "image", channels: int = 3) -> Picture:
    """An image of PIL's, its file still open where it has several pages, as `open_picture` has it.

    Raises:
        ImageError: another number of bands, or pixels without a known range.
    """
    if channels == 3:
        return to_rgb(image, name)
    if channels == 1:
        return to_grey(image, name)
    count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if count > channels:  # each has a band at least; so many need not be decoded
        raise _other_number(count, channels, name)
    pages = ImageSequence.Iterator(image) if count > 1 else [image]
    bands = [_bands(page, name) for page in pages]
    if len({page.shape[:2] for page in bands}) > 1:
        raise ImageError(f"{name}: pages of different sizes; a page is a band of the image, so give all one size")
    return of_array(np.concatenate(bands, 2), channels, name)


def to_grey(image: Image.Image, name: str = "image") -> Image.Image:
    """8-bit grey, upright: colours as ITU-R 601's luma, transparency laid over white, 16 bits scaled to 8.

    Raises:
        ImageError: as `to_rgb`.
    """
    return image if image.mode == "L" and not _turned(image) else to_rgb(image, name).convert("L")


def of_array(values: np.ndarray, channels: int, name: str) -> Picture:
    """(H, W, C) uint8 as `open_picture` has it.

    Raises:
        ImageError: another number of bands.
    """
    given = values.shape[2]
    if channels in {1, 3} and given in {1, 3}:
        return with_channels(Image.fromarray(values[:, :, 0] if given == 1 else values), name, channels)
    if given != channels:
        raise _other_number(given, channels, name)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def _other_number(given: int, channels: int, name: str) -> ImageError:
    return ImageError(
        f"{name}: {given} channels, but the model takes {channels}; give a file with so many, the pages of a TIFF "
        f"or an array (H, W, {channels}) in a {ARRAY} file, or set model.backbone.args.in_chans"
    )


def tensor_of(picture: Picture) -> Tensor:
    """(C, H, W) uint8."""
    return picture if isinstance(picture, Tensor) else transforms.pil_to_tensor(picture)


def size_of(picture: Picture) -> tuple[int, int]:
    """(H, W)."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return int(picture.shape[-2]), int(picture.shape[-1])


def _bands(page: Image.Image, name: str) -> np.ndarray:
    """(H, W, bands) uint8 of one page, upright."""
    check_pixels(*page.size, name)
    page = ImageOps.exif_transpose(page)
    if page.mode in {"1", "P"}:
        page = page.convert("L" if page.mode == "1" else "RGB")
    if page.mode.startswith("I") or page.mode == "F":
        page = eight_bits(page, name)
    values = np.asarray(page)
    return values[:, :, None] if values.ndim == 2 else values


def _turned(image: Image.Image) -> bool:
    return image.getexif().get(0x0112, 1) != 1 or "transparency" in image.info
