"""Images and masks on disk: listed without decoding, opened by rule, answered by name where they cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dyt.heads.pixelwise import IGNORED
from dyt.tasks.bands import Picture, open_picture
from dyt.tasks.images import loaded
from dyt.tasks.layouts import EXTENSIONS, DataError, Split, by_name, contents_of, read_lines, some
from dyt.tasks.segmentation.spec import SegmentationSpec

MASKS = (".png", ".bmp", ".tif", ".tiff", ".gif")
"""Endings of masks: formats that keep every value."""
MODES = frozenset({"1", "L", "P", "I", "I;16", "I;16B"})


@dataclass(frozen=True)
class Masked(Split):
    """A split of images with masks.

    Attributes:
        masks: the masks' files, in the order of `paths`; none for images alone.
        classes: K, which the masks' labels must be below.
        lowered: whether label 0 is no class and the others are one too high.
        places: of each of the K labels among the model's classes; none where they are the same.
    """

    masks: Sequence[Path] = ()
    classes: int = IGNORED
    lowered: bool = False
    places: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def mask(self, position: int) -> Tensor:
        """(H, W) uint8 labels, 255 for none.

        Raises:
            ImageError, DataError: as `open_mask`.
        """
        labels = open_mask(self.masks[position], self.classes, self.lowered)
        if not self.places:
            return labels
        table = torch.full((IGNORED + 1,), IGNORED, dtype=torch.uint8)
        table[: len(self.places)] = torch.tensor(self.places, dtype=torch.uint8)
        return table[labels.long()]


def class_names(root: Path, file: str) -> tuple[str, ...]:
    """The names in the list of classes.

    Raises:
        DataError: no such list, an empty one, or more names than masks can tell apart.
    """
    path = root / file
    if not path.is_file():
        raise DataError(
            f"no list of classes '{path}' ({root} has {contents_of(root)}); write one with a class name a line, or "
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


def open_split(spec: SegmentationSpec, name: str, classes: Sequence[str]) -> Masked:
    """Lists a split, without decoding; the masks' labels, of the list of classes, become positions among `classes`.

    Raises:
        DataError: classes that are not among those; no such directories, no images, images without a mask or with
        several, masks without an image.
    """
    root = Path(spec.root)
    own = class_names(root, spec.classes)
    places = by_name(own, classes, root / spec.classes)
    images, annotations = root / "images" / name, root / "annotations" / name
    for directory in (images, annotations):
        if not directory.is_dir():
            raise DataError(
                f"no directory '{directory}' ({directory.parent} has {contents_of(directory.parent)}); expected "
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
        raise DataError(
            f"'{annotations}' has no mask for {len(missing)} of {len(paths)} images: {some(missing)}; put masks of the "
            f"same names there ({', '.join(MASKS)}), or leave the images out"
        )
    double = next((m for m in masks if len(m) > 1), None)
    if double is not None:
        raise DataError(f"two masks for one image: '{double[0]}' and '{double[1]}'; leave one of them out")
    alone = sorted(set(present) - {p.relative_to(images).with_suffix("") for p in paths})
    if alone:
        raise DataError(
            f"'{images}' has no image for {len(alone)} masks of '{annotations}': {some([str(p) for p in alone])}; put "
            f"the images there, or leave the masks out"
        )
    files = tuple(paths)
    return Masked(
        name,
        (),
        reader(files),
        files,
        masks=tuple(m[0] for m in masks),
        classes=len(own),
        lowered=spec.reduce_zero_label,
        places=() if places == tuple(range(len(own))) else places,
    )


def reader(paths: Sequence[Path]) -> Callable[..., Picture]:
    """Opens one of the images by its position, as 8-bit RGB or with as many channels as given."""
    return partial(_opened, tuple(paths))


def _opened(paths: Sequence[Path], position: int, channels: int = 3) -> Picture:
    return open_picture(paths[position], channels)


def open_mask(path: Path, classes: int, lowered: bool = False) -> Tensor:
    """(H, W) uint8 labels of a mask file, 255 for none.

    Args:
        path: an image of one channel.
        classes: K; a label is below it, or 255.
        lowered: 0 becomes 255 and the others are lowered by one first.

    Raises:
        ImageError: missing, empty or cut off, by name.
        DataError: of several channels, or with a label that is no class, by name.
    """
    values = np.array(loaded(path, _one_channel, str(path)))
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


def _one_channel(image: Image.Image, name: str) -> Image.Image:
    """A copy, for the file is closed afterwards."""
    if image.mode not in MODES:
        raise DataError(
            f"{name}: a mask of mode {image.mode}, whose colours are no labels; save it with one channel, the class's "
            f"number in each pixel (grey or palette)"
        )
    return image.copy()
