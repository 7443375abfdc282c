"""`vtab`: the VTAB-1K lists, root/<split>.txt with lines `path label`; classes.txt is optional."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from dyt.tasks.layouts.base import DataError, Layout, Split, by_name, contents_of, read_list, read_names, relabelled

SEVERAL = re.compile(r"(?P<path>\S.*?)(?P<labels>(?:\s+[0-9]{1,18})*)")
"""A line of a list whose images may have several labels, or none."""


class VtabLists(Layout):
    """Lists of files and labels."""

    name: ClassVar[str] = "vtab"
    train: ClassVar[tuple[str, ...]] = ("train800val200",)
    test: ClassVar[tuple[str, ...]] = ("test",)
    choosing: ClassVar[tuple[tuple[str, str, str], ...]] = (("train800", "val200", "train800val200"),)
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
        def entry(line: str) -> tuple[Path, int]:
            path, _, label = line.rpartition(" ")
            if not path or not label.isdecimal():
                raise ValueError(f"'{line[:60]}' is not 'path label'")
            return root / path.strip(), int(label)

        return self._listed(root, split, classes, entry, "'path label'")

    def several(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        def entry(line: str) -> tuple[Path, tuple[int, ...]]:
            match = SEVERAL.fullmatch(line.strip())
            assert match is not None  # any line is a path and no labels at least
            return root / match["path"], tuple(sorted({int(label) for label in match["labels"].split()}))

        return self._listed(root, split, classes, entry, "'path label label ...'")

    def _listed(
        self,
        root: Path,
        split: str,
        classes: Sequence[str] | None,
        entry: Callable[[str], tuple[Path, Any]],
        expected: str,
    ) -> Split:
        file = root / f"{split}.txt"
        if not file.is_file():
            raise DataError(f"no list '{file}'; {root} has {contents_of(root)}; expected lines {expected} in it")
        own = self.classes(root, split)
        count = len(own) if own is not None else None if classes is None else len(classes)
        listed = read_list(split, file, entry, expected, count)
        if own is None:
            return replace(listed, named=False)
        return relabelled(listed, by_name(own, classes, root / "classes.txt"))
