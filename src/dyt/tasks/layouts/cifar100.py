"""`cifar100`: the "python version" of CIFAR-100, cifar-100-python/{train,test,meta}; fine labels.

An own reader, since torchvision's takes only the publisher's very bytes (by MD5, both splits at once) and unpickles
them; this one also reads subsets and relabelled copies, and runs nothing that stands in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from dyt.tasks.layouts.arrays import array_split
from dyt.tasks.layouts.base import DataError, Layout, Split, by_name, home, one_of, relabelled
from dyt.tasks.layouts.safe_pickle import bytes_array, load_pickle

SIDE = 32


class Cifar100(Layout):
    """CIFAR-100. Its files are pickles; nothing in them is run (`dyt.tasks.layouts.safe_pickle`)."""

    name: ClassVar[str] = "cifar100"
    train: ClassVar[tuple[str, ...]] = ("train",)
    test: ClassVar[tuple[str, ...]] = ("test",)
    expected: ClassVar[str] = "CIFAR-100's python version (cifar-100-python/train, test, meta)"

    def has(self, root: Path, split: str) -> bool:
        return (_home(root) / split).is_file() and (_home(root) / "meta").is_file()

    def classes(self, root: Path, split: str) -> tuple[str, ...]:
        file = _home(root) / "meta"
        return tuple(map(str, _listed(load_pickle(file), "fine_label_names", str, file)))

    def split(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        one_of(split, (*self.train, *self.test), root)
        places = by_name(self.classes(root, split), classes, root)
        file = _home(root) / split
        loaded = load_pickle(file)
        labels = _listed(loaded, "fine_labels", int, file)
        rows = bytes_array(loaded.get("data"), f"{file}: 'data'")
        if rows.ndim != 2 or rows.shape[1] != 3 * SIDE * SIDE:
            raise DataError(f"{file}: 'data' is {rows.shape}; expected (N, {3 * SIDE * SIDE}), 32 x 32 RGB")
        pixels = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        return relabelled(array_split(split, file, pixels, labels, len(places)), places)


def _home(root: Path) -> Path:
    return home(root, "cifar-100-python")


def _listed(loaded: dict[str, Any], key: str, kind: type, file: Path) -> list[Any]:
    value = loaded.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(item, kind) for item in value):
        raise DataError(f"{file}: no list '{key}' of {kind.__name__}; it has {', '.join(loaded) or 'nothing'}")
    return value
