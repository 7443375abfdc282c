"""`svhn`: cropped digits, format 2: train_32x32.mat, test_32x32.mat, extra_32x32.mat.

An own reader, since torchvision's takes only the publisher's very bytes (by MD5) and calls all others `not found or
corrupted`; this one also reads subsets, and names what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from dyt.tasks.layouts.arrays import array_split, load_mat
from dyt.tasks.layouts.base import DataError, Layout, Split, by_name, one_of, relabelled

DIGITS = tuple(str(digit) for digit in range(10))


class Svhn(Layout):
    """SVHN. The label 10, which is the digit 0, becomes 0."""

    name: ClassVar[str] = "svhn"
    train: ClassVar[tuple[str, ...]] = ("train",)
    test: ClassVar[tuple[str, ...]] = ("test",)
    expected: ClassVar[str] = "SVHN's cropped digits (train_32x32.mat and test_32x32.mat)"

    def has(self, root: Path, split: str) -> bool:
        return _file(root, split).is_file()

    def classes(self, root: Path, split: str) -> tuple[str, ...]:
        return DIGITS

    def split(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        one_of(split, ("train", "test", "extra"), root)
        places, file = by_name(DIGITS, classes, root), _file(root, split)
        pixels, labels = load_mat(file, "X", "y")
        if not isinstance(pixels, np.ndarray) or not isinstance(labels, np.ndarray):
            raise DataError(f"{file}: X or y is no array of numbers; expected (32, 32, 3, N) and integers")
        if pixels.ndim == 3:  # MATLAB drops a last dimension of 1
            pixels = pixels[..., None]
        if pixels.ndim != 4 or labels.dtype.kind not in "ui":
            raise DataError(f"{file}: X is {pixels.shape} and y {labels.dtype}; expected (32, 32, 3, N) and integers")
        named = np.where(labels == len(DIGITS), 0, labels.astype(np.int64)).ravel().tolist()
        made = array_split(split, file, np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), named, len(places))
        return relabelled(made, places)


def _file(root: Path, split: str) -> Path:
    return root / f"{split}_32x32.mat"
