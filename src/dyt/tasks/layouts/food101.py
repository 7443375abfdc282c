"""`food101`: food-101/meta/{classes,train,test}.txt and images/<class>/<number>.jpg.

An own reader, since torchvision's keeps the files' paths and labels private, which checks by line, caching and other
numbers of channels need, and takes no other root than the folder above `food-101`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from dyt.tasks.layouts.base import Layout, Split, by_name, home, known_name, read_list, read_names, relabelled


class Food101(Layout):
    """Food-101."""

    name: ClassVar[str] = "food101"
    train: ClassVar[tuple[str, ...]] = ("train",)
    test: ClassVar[tuple[str, ...]] = ("test",)
    expected: ClassVar[str] = "Food-101 (meta/train.txt, meta/test.txt, images/)"

    def has(self, root: Path, split: str) -> bool:
        return (_home(root) / "meta" / f"{split}.txt").is_file() and (_home(root) / "images").is_dir()

    def classes(self, root: Path, split: str) -> tuple[str, ...]:
        return read_names(_home(root) / "meta" / "classes.txt")

    def split(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        own, images = self.classes(root, split), _home(root) / "images"
        index = {name: i for i, name in enumerate(own)}

        def entry(line: str) -> tuple[Path, int]:
            name, slash, number = line.strip().partition("/")
            if not slash or not number:
                raise ValueError(f"'{line[:60]}' is not 'class/number'")
            return images / name / f"{number}.jpg", known_name(index, name, "classes.txt")

        file = _home(root) / "meta" / f"{split}.txt"
        return relabelled(read_list(split, file, entry, "'class/number'", len(own)), by_name(own, classes, root))


def _home(root: Path) -> Path:
    return home(root, "food-101")
