"""`vtab`: the VTAB-1K lists, root/<split>.txt with lines `path label`; classes.txt is optional."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from dyt.tasks.layouts.base import DataError, Layout, Split, by_name, found, read_list, read_names, relabelled


class VtabLists(Layout):
    """Lists of files and labels."""

    name: ClassVar[str] = "vtab"
    train: ClassVar[tuple[str, ...]] = ("train800val200",)
    test: ClassVar[tuple[str, ...]] = ("test",)
    expected: ClassVar[str] = "VTAB-1K lists (train800val200.txt and test.txt)"
    published: ClassVar[bool] = False

    def has(self, root: Path, split: str) -> bool:
        return (root / f"{split}.txt").is_file()

    def is_here(self, root: Path, train: str | None, test: str | None) -> bool:
        return any(self.has(root, name) for name in (train or self.train[0], test or self.test[0]))

    def classes(self, root: Path, split: str) -> tuple[str, ...] | None:
        file = root / "classes.txt"
        return read_names(file) if file.is_file() else None

    def split(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        file = root / f"{split}.txt"
        if not file.is_file():
            raise DataError(f"no list '{file}'; {root} has {found(root)}; expected lines 'path label' in it")

        def entry(line: str) -> tuple[Path, int]:
            path, _, label = line.rpartition(" ")
            if not path or not label.isdecimal():
                raise ValueError(f"'{line[:60]}' is not 'path label'")
            return root / path.strip(), int(label)

        own = self.classes(root, split)
        count = len(own) if own is not None else None if classes is None else len(classes)
        listed = read_list(split, file, entry, "'path label'", count)
        if own is None:
            return replace(listed, named=False)
        return relabelled(listed, by_name(own, classes, root / "classes.txt"))
