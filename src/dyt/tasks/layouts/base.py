"""What every layout is, and what they share: splits, lists of files, and saying what was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from dyt.errors import DyTError
from dyt.tasks.bands import Picture, open_picture

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".npy"})
SHOWN = 5
"""Problems of a list that are shown; the rest are counted."""


class DataError(DyTError):
    """Data that is not there or not as its layout asks; the message says what was found and what is expected."""


@dataclass(frozen=True)
class Split:
    """The images and labels of one split.

    Attributes:
        name: as the user names it.
        labels: one class index per image, or a tuple of them where an image may have several.
        read: opens an image by its position, as 8-bit RGB, or with as many channels as given; picklable, for
            loader processes.
        paths: the files, where there are files.
        named: whether the data says what its classes are called; else its labels are numbers of the model's outputs.
        count: how many classes there are, of images with several labels.
    """

    name: str
    labels: Sequence[Any]
    read: Callable[..., Picture]
    paths: Sequence[Path] = ()
    named: bool = True
    count: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, position: int, channels: int = 3) -> Picture:
        """The image at a position with so many channels; as an image of PIL's where they are 1 or 3.

        Raises:
            ImageError: one that cannot be read, or has another number of bands.
        """
        return self.read(position) if channels == 3 else self.read(position, channels)


class Layout(ABC):
    """Base of the ways in which data lies on disk; an instance has no state, and nothing is decoded by listing.

    Attributes:
        name: what `data.format` calls it.
        train, test: names of the splits, the first that is there.
        expected: what it looks like, in a few words.
        published: a data set's own layout, in which nothing but that data set lies.
        choosing: (training, validation, both) splits with which choices are made, the first of which all are there.
    """

    name: ClassVar[str]
    train: ClassVar[tuple[str, ...]]
    test: ClassVar[tuple[str, ...]]
    expected: ClassVar[str]
    published: ClassVar[bool] = True
    choosing: ClassVar[tuple[tuple[str, str, str], ...]] = ()

    @abstractmethod
    def has(self, root: Path, split: str) -> bool:
        """Whether the split is there, as far as names of files tell."""

    @abstractmethod
    def classes(self, root: Path, split: str) -> tuple[str, ...] | None:
        """The names of the classes, by label; None where the data has none.

        Raises:
            DataError: what was found and what is expected.
        """

    @abstractmethod
    def split(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        """The images of a split, checked, not decoded, and their labels as positions among `classes`, by name.

        Where the data does not name its classes, its labels are those positions themselves.

        Raises:
            DataError: what was found and what is expected; classes, or labels, that are not among `classes`.
        """

    def several(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        """As `split`, of images with any number of labels each: a tuple for each image.

        Raises:
            DataError: as `split`; or a layout whose images have one label each.
        """
        raise DataError(
            f"data.labels is several, but in the layout '{self.name}' an image has one label; lists of lines "
            f"'path label label ...' have several"
        )

    def is_here(self, root: Path, train: str | None, test: str | None) -> bool:
        """Whether root looks like it, given the user's own names of splits."""
        return any(self.has(root, name) for name in (*self.train, *self.test))

    def named(self, root: Path, training: bool) -> str:
        """The first name of the training or the test split that is there, else the first."""
        names = self.train if training else self.test
        return next((name for name in names if self.has(root, name)), names[0])


def home(root: Path, *folders: str) -> Path:
    """Root, or the folder in it that the published archive unpacks to."""
    return next((root / folder for folder in folders if (root / folder).is_dir()), root)


def one_of(split: str, known: Sequence[str], root: Path) -> None:
    """Refuses a split that the published data does not have.

    Raises:
        DataError: with the splits that there are.
    """
    if split not in known:
        raise DataError(f"'{root}' has no split '{split}'; it has {', '.join(known)}")


def files(name: str, paths: Sequence[Path], labels: Sequence[Any]) -> Split:
    """A split of image files."""
    return Split(name, tuple(labels), partial(_opened, tuple(paths)), tuple(paths))


def _opened(paths: Sequence[Path], i: int, channels: int = 3) -> Picture:
    return open_picture(paths[i], channels)


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 text file, without their ends.

    Raises:
        DataError: not UTF-8, or unreadable.
    """
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable UTF-8 text file ({error})") from error


def read_names(file: Path) -> tuple[str, ...]:
    """The names in a file of one a line.

    Raises:
        DataError: no such file, or nothing in it.
    """
    if not file.is_file():
        raise DataError(
            f"no file '{file}'; {file.parent} has {contents_of(file.parent)}; expected one class name per line"
        )
    names = tuple(line.strip() for line in read_lines(file) if line.strip())
    if not names:
        raise DataError(f"{file} is empty; expected one class name per line")
    return names


def read_list(
    name: str, file: Path, parse: Callable[[str], tuple[Path, Any]], expected: str, count: int | None
) -> Split:
    """The split that a list of files names, one a line; blank lines are left out.

    Args:
        parse: a line -> (path, label), or a tuple of labels; a ValueError's message says what is wrong with the line.
        expected: what a line is.
        count: how many classes there are, where that is known.

    Raises:
        DataError: no such list, nothing in it, or what is wrong with its lines, by number.
    """
    if not file.is_file():
        raise DataError(
            f"no list '{file}'; {file.parent} has {contents_of(file.parent)}; expected lines {expected} in it"
        )
    entries = [(number, line) for number, line in enumerate(read_lines(file), 1) if line.strip()]
    paths, labels, wrong = [], [], []
    for number, line in entries:
        try:
            path, label = parse(line)
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
            continue
        beyond = [each for each in _each(label) if each < 0 or (count is not None and each >= count)]
        if beyond:
            wrong.append(f"line {number}: label {beyond[0]}, but there are {count} classes")
        elif not path.is_file():
            wrong.append(f"line {number}: no file '{path}'")
        paths.append(path)
        labels.append(label)
    if wrong:
        raise DataError(f"{file}: {some(wrong, '; ')}")
    if not paths:
        raise DataError(f"{file} is empty; expected lines {expected}")
    return files(name, paths, labels)


def known_name(names: dict[str, int], name: str, file: str) -> int:
    """The label of a class name.

    Raises:
        ValueError: a name that is not in `file`, for `read_list`.
    """
    if name not in names:
        raise ValueError(f"class '{name[:60]}' is not in {file}")
    return names[name]


def by_name(own: Sequence[str], classes: Sequence[str] | None, where: object) -> tuple[int, ...]:
    """The position of each of the data's own classes among the model's, which are told apart by their names.

    Args:
        own: the data's names, by its labels.
        classes: the model's, by its outputs; None where there is no model yet.
        where: what has them, for the error.

    Raises:
        DataError: names that the model does not have; or of several classes alike, in another order than the model's.
    """
    if classes is None or tuple(own) == tuple(classes):
        return tuple(range(len(own)))
    strange = [name for name in own if name not in classes]
    if strange:
        missing = [name for name in classes if name not in own]
        raise DataError(
            f"'{where}' has {len(strange)} of {len(own)} classes that the model does not have ({some(strange)}); of "
            f"the {len(classes)} that it has, {len(missing)} are not there{f' ({some(missing)})' if missing else ''}; "
            f"classes are told apart by their names, and --classes gives the model's others"
        )
    twice = [name for name in own if list(own).count(name) > 1 or list(classes).count(name) > 1]
    if twice:
        raise DataError(
            f"'{where}' has its classes in another order than the model, and several are called '{twice[0]}'; give "
            f"each a name of its own"
        )
    index = {name: i for i, name in enumerate(classes)}
    return tuple(index[name] for name in own)


def relabelled(split: Split, places: Sequence[int]) -> Split:
    """The split with each label at its place, as `by_name` has them."""
    if tuple(places) == tuple(range(len(places))):
        return split
    labels = (
        tuple(places[each] for each in label) if isinstance(label, tuple) else places[label] for label in split.labels
    )
    return replace(split, labels=tuple(labels))


def _each(label: Any) -> tuple[int, ...]:
    return label if isinstance(label, tuple) else (label,)


def contents_of(directory: Path) -> str:
    """What lies in a directory, in a few words."""
    if not directory.is_dir():
        return "no such directory"
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in directory.iterdir())
    return some(names) if names else "nothing in it"


def some(items: Sequence[str], joint: str = ", ") -> str:
    """The first few, and how many more there are."""
    rest = len(items) - SHOWN
    return joint.join(items[:SHOWN]) + (f"{joint}and {rest} more" if rest > 0 else "")
