"""`folder`: root/<split>/<class>/*.jpg, classes sorted by name.

An own reader, since torchvision's `make_dataset` also lists hidden files, has another order where class folders have
folders in them (a run is reproducible by that order), and does not say what lies there instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from dyt.tasks.layouts.base import EXTENSIONS, DataError, Layout, Split, contents_of, files, some


class Folder(Layout):
    """Class folders."""

    name: ClassVar[str] = "folder"
    train: ClassVar[tuple[str, ...]] = ("train",)
    test: ClassVar[tuple[str, ...]] = ("test", "val")
    choosing: ClassVar[tuple[tuple[str, str, str], ...]] = (("train", "val", "train+val"),)
    expected: ClassVar[str] = "class folders (train/<class>/*.jpg and test/ or val/)"
    published: ClassVar[bool] = False

    def has(self, root: Path, split: str) -> bool:
        return (root / split).is_dir()

    def is_here(self, root: Path, train: str | None, test: str | None) -> bool:
        return any(self.has(root, name) for name in (train or "train", test or "test", "val"))

    def classes(self, root: Path, split: str) -> tuple[str, ...]:
        return folder_classes(root, split)

    def split(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        return folder_split(root, split, folder_classes(root, split) if classes is None else classes)


def folder_classes(root: Path, split: str) -> tuple[str, ...]:
    """The names of the class folders of root/split, sorted.

    Raises:
        DataError: no such directory, or none in it.
    """
    directory = root / split
    if not directory.is_dir():
        raise DataError(
            f"no directory '{directory}'; {root} has {contents_of(root)}; expected {split}/<class>/<image files>"
        )
    names = sorted(d.name for d in directory.iterdir() if d.is_dir() and not d.name.startswith("."))
    if not names:
        raise DataError(
            f"no class folders in '{directory}' ({contents_of(directory)}); expected {split}/<class>/<image files>"
        )
    return tuple(names)


def folder_split(root: Path, split: str, classes: Sequence[str]) -> Split:
    """The images of root/split/<class>; files that do not have an image's ending are left out.

    Raises:
        DataError: a class folder that is not among `classes`, or one without an image.
    """
    present = folder_classes(root, split)
    unknown = [name for name in present if name not in classes]
    if unknown:
        missing = [name for name in classes if name not in present]
        raise DataError(
            f"'{root / split}' has {len(unknown)} class folders that are not among the {len(classes)} known classes "
            f"({some(unknown)}){f'; without a folder are {some(missing)}' if missing else ''}"
        )
    index = {name: i for i, name in enumerate(classes)}
    images = {
        name: [
            path
            for path in sorted((root / split / name).rglob("*"))
            if path.suffix.lower() in EXTENSIONS and path.is_file() and not path.name.startswith(".")
        ]
        for name in present
    }
    bare = [name for name, listed in images.items() if not listed]
    if bare:
        raise DataError(
            f"no images in {len(bare)} of {len(present)} class folders of '{root / split}' ({some(bare)}); expected "
            f"files ending in {', '.join(sorted(EXTENSIONS))}; leave empty folders out"
        )
    labels = [index[name] for name, listed in images.items() for _ in listed]
    return files(split, [path for listed in images.values() for path in listed], labels)
