"""Images and masks on disk: listed without decoding, opened by rule, answered by name where they cannot be used."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dyt.heads.pixelwise import IGNORED
from dyt.tasks.images import open_image
from dyt.tasks.layouts import EXTENSIONS, DataError, Split, found, read_lines, some
from dyt.tasks.segmentation.spec import SegmentationSpec

MASKS = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Endings of masks: formats that keep every value."""
MODES = frozenset({"1", "L", "P", "I", "I;16"})


@dataclass(frozen=True)
class Masked(Split):
    """A split of images with masks.

    Attributes:
        masks: the masks' files, in the order of `paths`; none for images alone.
        classes: K, which labels must be below.
        lowered: whether label 0 is no class and the others are one too high.
    """

    masks: Sequence[Path] = ()
    classes: int = IGNORED
    lowered: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def mask(self, position: int) -> Tensor:
        """(H, W) uint8 labels, 255 for none.

        Raises:
            DataError: as `open_mask`.
        """
        return open_mask(self.masks[position], self.classes, self.lowered)


def class_names(root: Path, file: str) -> tuple[str, ...]:
    """The names in the list of classes.

    Raises:
        DataError: no such list, an empty one, or more names than masks can tell apart.
    """
    path = root / file
    if not path.is_file():
        raise DataError(
            f"no list of classes '{path}' ({root} has {found(root)}); write one with a class name a line, or "
            f"name it in data.classes"
        )
    lines = [line.strip() for line in read_lines(path) if line.strip()]
    if lines and lines[0].split("\t")[0] == "Idx":  # ADE20K's objectInfo150.txt
        lines = [line.split("\t")[-1].strip() for line in lines[1:]]
    if not 1 <= len(lines) <= IGNORED:
        raise DataError(f"'{path}' has {len(lines)} class names; expected 1 to {IGNORED}, one a line")
    return tuple(lines)


def test_split(spec: SegmentationSpec) -> str:
    """The name of the test split."""
    if spec.test is not None:
        return spec.test
    return "test" if (Path(spec.root) / "annotations" / "test").is_dir() else "validation"


def open_split(spec: SegmentationSpec, name: str, classes: int) -> Masked:
    """Lists a split, without decoding.

    Raises:
        DataError: no such directories, no images, images without a mask or with several.
    """
    root = Path(spec.root)
    images, annotations = root / "images" / name, root / "annotations" / name
    for directory in (images, annotations):
        if not directory.is_dir():
            raise DataError(
                f"no directory '{directory}' ({directory.parent} has {found(directory.parent)}); expected "
                f"images/{name}/*.jpg and annotations/{name}/*.png in '{root}'"
            )
    paths = sorted(p for p in images.rglob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))
    if not paths:
        raise DataError(f"no images in '{images}'; expected files ending in {', '.join(sorted(EXTENSIONS))}")
    present: dict[Path, list[Path]] = {}
    for p in annotations.rglob("*"):
        if p.suffix.lower() in MASKS and not p.name.startswith("."):
            present.setdefault(p.relative_to(annotations).with_suffix(""), []).append(p)
    masks = [present.get(p.relative_to(images).with_suffix(""), []) for p in paths]
    missing = [str(p.relative_to(images)) for p, m in zip(paths, masks, strict=True) if not m]
    if missing:
        raise DataError(f"'{annotations}' has no mask for {len(missing)} of {len(paths)} images: {some(missing)}")
    double = next((m for m in masks if len(m) > 1), None)
    if double is not None:
        raise DataError(f"two masks for one image: '{double[0]}' and '{double[1]}'; leave one of them out")
    files = tuple(paths)
    return Masked(name, (), reader(files), files, tuple(m[0] for m in masks), classes, spec.reduce_zero_label)


def reader(paths: Sequence[Path]) -> Callable[[int], Image.Image]:
    """Opens one of the images by its position, as 8-bit RGB."""
    return partial(_opened, tuple(paths))


def _opened(paths: Sequence[Path], position: int) -> Image.Image:
    return open_image(paths[position])


def open_mask(path: Path, classes: int, lowered: bool = False) -> Tensor:
    """(H, W) uint8 labels of a mask file, 255 for none.

    Args:
        path: an image of one channel.
        classes: K; a label is below it, or 255.
        lowered: 0 becomes 255 and the others are lowered by one first.

    Raises:
        DataError: missing, empty, cut off, of several channels, or with a label that is no class; all by name.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such mask")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: an empty mask file; replace it, or leave it and its image out")
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.array(image)
    # PIL's decoders answer damaged files with any of these
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "not an image that PIL knows" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{path}: the mask cannot be read ({reason}); replace it, or leave it out") from error
    if mode not in MODES:
        raise DataError(
            f"{path}: a mask of mode {mode}, whose colours are no labels; save it with one channel, the class's "
            f"number in each pixel (grey or palette)"
        )
    labels = values.astype(np.int64)
    if lowered:
        labels = np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1)
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if wrong.size:
        raise DataError(
            f"{path}: label {int(wrong[0]) + lowered} in {wrong.size} pixels, but there are {classes} classes "
            f"({int(lowered)} to {classes - 1 + lowered}, {IGNORED} for none{', 0 for none' if lowered else ''}); see "
            f"data.classes and data.reduce_zero_label"
        )
    return torch.from_numpy(labels.astype(np.uint8))
