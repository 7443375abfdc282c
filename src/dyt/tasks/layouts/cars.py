"""`cars`: Stanford Cars, devkit/cars_meta.mat, the annotations of both splits, cars_train/ and cars_test/.

An own reader, since torchvision's keeps the files' paths and labels private, takes no other root than the folder above
`stanford_cars` and no test labels from the devkit, and reads the annotations with SciPy (see `matlab`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dyt.tasks.layouts.arrays import load_mat
from dyt.tasks.layouts.base import DataError, Layout, Split, by_name, files, home, one_of, relabelled, some

ANNOTATIONS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}


class Cars(Layout):
    """Stanford Cars. The test labels are in a file of their own, beside the devkit or in it."""

    name: ClassVar[str] = "cars"
    train: ClassVar[tuple[str, ...]] = ("train",)
    test: ClassVar[tuple[str, ...]] = ("test",)
    expected: ClassVar[str] = (
        "Stanford Cars (devkit/cars_meta.mat, devkit/cars_train_annos.mat, cars_test_annos_withlabels.mat, "
        "cars_train/, cars_test/)"
    )

    def has(self, root: Path, split: str) -> bool:
        return (_home(root) / "devkit" / "cars_meta.mat").is_file() and (_home(root) / f"cars_{split}").is_dir()

    def classes(self, root: Path, split: str) -> tuple[str, ...]:
        file = _home(root) / "devkit" / "cars_meta.mat"
        (names,) = load_mat(file, "class_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{file}: class_names are no cells of text; expected a name in each")
        if not names:
            raise DataError(f"{file}: no class names in it")
        return tuple(names)

    def split(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        one_of(split, tuple(ANNOTATIONS), root)
        base, places = _home(root), by_name(self.classes(root, split), classes, root)
        count = len(places)
        name = ANNOTATIONS[split]
        file = next((f for f in (base / name, base / "devkit" / name) if f.is_file()), None)
        if file is None:
            raise DataError(
                f"no '{name}' in '{base}' or its devkit; test labels are not in the devkit as published, but in "
                f"cars_test_annos_withlabels.mat"
            )
        (rows,) = load_mat(file, "annotations")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{file}: annotations are no structures; expected fname and class of each image")
        if not rows:
            raise DataError(f"{file}: no annotations in it")
        lacking = [field for field in ("fname", "class") if field not in rows[0]]
        if lacking:
            raise DataError(
                f"{file}: annotations without {' and '.join(lacking)}; expected fname and class of each image"
            )
        wrong = [f"the name of image {i} is no file's name" for i, row in enumerate(rows) if not _name(row["fname"])]
        if wrong:
            raise DataError(f"{file}: {some(wrong, '; ')}")
        paths = [base / f"cars_{split}" / row["fname"] for row in rows]
        numbers = [row["class"] for row in rows]
        wrong = [f"the class of {p.name} is no integer" for p, y in zip(paths, numbers, strict=True) if not _whole(y)]
        if wrong:
            raise DataError(f"{file}: {some(wrong, '; ')}")
        labels = [int(y.item()) - 1 for y in numbers]
        wrong = [f"no file '{path}'" for path in paths if not path.is_file()]
        wrong += [
            f"{path.name} has class {y + 1} of {count}"
            for path, y in zip(paths, labels, strict=True)
            if not 0 <= y < count
        ]
        if wrong:
            raise DataError(f"{file}: {some(wrong, '; ')}")
        return relabelled(files(split, paths, labels), places)


def _home(root: Path) -> Path:
    return home(root, "stanford_cars")


def _name(value: Any) -> bool:
    """Whether it can be a file's name."""
    return isinstance(value, str) and 0 < len(value.encode()) < 256 and "\0" not in value


def _whole(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "ui"
