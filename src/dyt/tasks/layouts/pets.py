"""`pets`: Oxford-IIIT Pets, annotations/{trainval,test}.txt and images/<Breed>_<number>.jpg.

An own reader, since torchvision's capitalises the breeds' names, so that saved models would no longer know their
classes, and keeps the files' paths and labels private.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from dyt.tasks.layouts.base import DataError, Layout, Split, by_name, home, read_list, relabelled


class Pets(Layout):
    """Oxford-IIIT Pets by breed, 37 of them; the names are those of the files."""

    name: ClassVar[str] = "pets"
    train: ClassVar[tuple[str, ...]] = ("trainval",)
    test: ClassVar[tuple[str, ...]] = ("test",)
    expected: ClassVar[str] = "Oxford-IIIT Pets (annotations/trainval.txt, annotations/test.txt, images/)"

    def has(self, root: Path, split: str) -> bool:
        return (_home(root) / "annotations" / f"{split}.txt").is_file() and (_home(root) / "images").is_dir()

    def classes(self, root: Path, split: str) -> tuple[str, ...]:
        listed = self.split(root, split, None)
        names: dict[int, set[str]] = {}
        for path, label in zip(listed.paths, listed.labels, strict=True):
            names.setdefault(label, set()).add(path.stem.rpartition("_")[0].replace("_", " "))
        split_up = [f"{label + 1}: {', '.join(sorted(breeds))}" for label, breeds in names.items() if len(breeds) > 1]
        if split_up:
            raise DataError(f"'{root}', split '{split}': one label for several breeds ({split_up[0]})")
        # a breed without an image in the split still has its place
        return tuple(next(iter(names.get(i, {str(i + 1)}))) for i in range(max(names) + 1))

    def split(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        images = _home(root) / "images"

        def entry(line: str) -> tuple[Path, int]:
            words = line.split()
            if len(words) != 4 or not words[1].isdecimal() or words[1] == "0":
                raise ValueError(f"'{line[:60]}' is not 'image class species breed', classes from 1")
            return images / f"{words[0]}.jpg", int(words[1]) - 1

        file = _home(root) / "annotations" / f"{split}.txt"
        expected = "'image class species breed'"
        listed = read_list(split, file, entry, expected, None if classes is None else len(classes))
        return listed if classes is None else relabelled(listed, self._places(root, split, listed, classes))

    def _places(self, root: Path, split: str, listed: Split, classes: Sequence[str]) -> Sequence[int]:
        """By name; a breed that the split has no image of has none, and stands where it would be."""
        own = self.classes(root, split)
        present = sorted(set(listed.labels))
        places = dict(zip(present, by_name([own[label] for label in present], classes, root), strict=True))
        return [places.get(label, label) for label in range(len(own))]


def _home(root: Path) -> Path:
    return home(root, "oxford-iiit-pet")
