"""How image data lies on disk: class folders, VTAB-1K lists, Hugging Face datasets; listed without decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from dyt.errors import DyTError
from dyt.tasks.images import open_image, to_rgb

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
SHOWN = 5
"""Problems of a list that are shown; the rest are counted."""


class DataError(DyTError):
    """Data that is not there or not as its layout asks; the message says what was found and what is expected."""


@dataclass(frozen=True)
class Split:
    """The images and labels of one split.

    Attributes:
        name: as the user names it.
        labels: one class index per image.
        read: opens an image by its position, as 8-bit RGB; picklable, for loader processes.
        paths: the files, where there are files.
    """

    name: str
    labels: Sequence[int]
    read: Callable[[int], Image.Image]
    paths: Sequence[Path] = ()

    def __len__(self) -> int:
        return len(self.labels)


def files(name: str, paths: Sequence[Path], labels: Sequence[int]) -> Split:
    """A split of image files."""
    return Split(name, tuple(labels), partial(_opened, tuple(paths)), tuple(paths))


def _opened(paths: Sequence[Path], i: int) -> Image.Image:
    return open_image(paths[i])


# Class folders --------------------------------------------------------------------------------------------------------


def folder_classes(root: Path, split: str) -> tuple[str, ...]:
    """The names of the class folders of root/split, sorted.

    Raises:
        DataError: no such directory, or none in it.
    """
    directory = root / split
    if not directory.is_dir():
        raise DataError(f"no directory '{directory}'; {root} has {found(root)}; expected {split}/<class>/<image files>")
    names = sorted(d.name for d in directory.iterdir() if d.is_dir() and not d.name.startswith("."))
    if not names:
        raise DataError(
            f"no class folders in '{directory}' ({found(directory)}); expected {split}/<class>/<image files>"
        )
    return tuple(names)


def folder_split(root: Path, split: str, classes: Sequence[str]) -> Split:
    """The images of root/split/<class>; files that do not have an image's ending are left out.

    Raises:
        DataError: a class folder that is not among `classes`, or no image at all.
    """
    present = folder_classes(root, split)
    unknown = [name for name in present if name not in classes]
    if unknown:
        raise DataError(
            f"'{root / split}' has {len(unknown)} class folders that are not among the {len(classes)} known classes "
            f"({_some(unknown)})"
        )
    index = {name: i for i, name in enumerate(classes)}
    paths = [
        path
        for name in present
        for path in sorted((root / split / name).rglob("*"))
        if path.suffix.lower() in EXTENSIONS and path.is_file() and not path.name.startswith(".")
    ]
    if not paths:
        raise DataError(f"no images in '{root / split}'; expected files ending in {', '.join(sorted(EXTENSIONS))}")
    depth = len((root / split).parts)
    return files(split, paths, [index[path.parts[depth]] for path in paths])


# VTAB-1K lists --------------------------------------------------------------------------------------------------------


def list_split(root: Path, split: str, classes: Sequence[str] | None) -> Split:
    """The images of the list root/split.txt, lines `path label`; paths are relative to root.

    Raises:
        DataError: no such list, lines of another form, labels out of range, or files that are not there, by line.
    """
    file = root / f"{split}.txt"
    if not file.is_file():
        raise DataError(f"no list '{file}'; {root} has {found(root)}; expected lines 'path label' in it")
    paths, labels, wrong = [], [], []
    for number, line in enumerate(read_lines(file), 1):
        path, _, label = line.rpartition(" ")
        if not line.strip():
            continue
        if not path or not label.isdecimal():
            wrong.append(f"line {number}: '{line[:60]}' is not 'path label'")
        elif classes is not None and int(label) >= len(classes):
            wrong.append(f"line {number}: label {label}, but there are {len(classes)} classes")
        elif not (root / path.strip()).is_file():
            wrong.append(f"line {number}: no file '{root / path.strip()}'")
        else:
            paths.append(root / path.strip())
            labels.append(int(label))
    if wrong:
        raise DataError(f"{file}: {_some(wrong, '; ')}")
    if not paths:
        raise DataError(f"{file} is empty; expected lines 'path label'")
    return files(split, paths, labels)


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 text file, without their ends.

    Raises:
        DataError: not UTF-8, or unreadable.
    """
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable UTF-8 text file ({error})") from error


# Hugging Face datasets on disk ----------------------------------------------------------------------------------------


def hf_load(root: Path) -> Any:
    """The DatasetDict that `save_to_disk` wrote.

    Raises:
        DataError: `datasets` is not installed, or no such data.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"'{root}' is a Hugging Face dataset; to read it: pip install \"dyt[hf]\"") from error
    try:
        loaded = datasets.load_from_disk(str(root))
    except (OSError, ValueError) as error:
        raise DataError(f"'{root}' cannot be read as a Hugging Face dataset: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, datasets.DatasetDict):
        raise DataError(f"'{root}' is one dataset; expected a DatasetDict with a training and a test split")
    return loaded


def hf_split(
    loaded: Any, root: Path, split: str, classes: Sequence[str] | None
) -> tuple[Split, tuple[str, ...] | None]:
    """A split of a DatasetDict, and its class names when its label column has them.

    Raises:
        DataError: no such split, no one image and one label column, or bad labels.
    """
    import datasets

    if split not in loaded:
        raise DataError(f"'{root}' has no split '{split}'; it has {', '.join(loaded)}")
    table = loaded[split]
    image = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    named = [name for name, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
    label = named or [name for name in ("label", "labels") if name in table.features]
    if len(image) != 1 or len(label) != 1:
        raise DataError(
            f"'{root}', split '{split}': columns {', '.join(table.features)}; expected one Image column and one "
            f"ClassLabel column (or an integer column named label)"
        )
    labels = table[label[0]][:]
    names = tuple(table.features[label[0]].names) if named else None
    known = classes if classes is not None else names
    bad = [y for y in labels if not isinstance(y, int) or y < 0 or (known is not None and y >= len(known))]
    if bad:
        raise DataError(f"'{root}', split '{split}': {len(bad)} bad labels ({_some([repr(y) for y in bad])})")
    if not labels:
        raise DataError(f"'{root}', split '{split}' is empty")
    name = f"{root} {split}"
    return Split(split, tuple(labels), partial(_hf_image, table, image[0], name)), names


def _hf_image(table: Any, column: str, name: str, i: int) -> Image.Image:
    value = table[i][column]
    if not isinstance(value, Image.Image):
        raise DataError(f"{name}, row {i}: no image")
    return to_rgb(value, f"{name}, row {i}")


def found(directory: Path) -> str:
    """What lies in a directory, in a few words."""
    if not directory.is_dir():
        return "no such directory"
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in directory.iterdir())
    return _some(names) if names else "nothing in it"


def _some(items: Sequence[str], joint: str = ", ") -> str:
    rest = len(items) - SHOWN
    return joint.join(items[:SHOWN]) + (f"{joint}and {rest} more" if rest > 0 else "")
