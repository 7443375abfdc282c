"""With which images a choice is made: never with those of the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dyt.sweeps.vtab1k import SweepError
from dyt.tasks.data import DataSpec, layout_of, open_data, split_name
from dyt.tasks.kinds import AnyDataSpec
from dyt.tasks.layouts import Split, some
from dyt.tasks.split_names import Piece, pieces

SHARE = 80
"""Per cent of the training images that are trained on where a validation split has to be drawn from them."""


@dataclass(frozen=True)
class Splits:
    """Names of splits.

    Attributes:
        train, validation: what is trained on and what is chosen by.
        both: what the chosen point is trained on.
        test: what it is tested on, once.
    """

    train: str
    validation: str
    both: str
    test: str


def splits_of(data: AnyDataSpec, validation: str | None = None) -> Splits:
    """The splits of this data, looked at: those that the layout has for it, or parts of the training split.

    Args:
        validation: the split to choose by, in place of these.

    Raises:
        SweepError: data of another task; a validation split that is the test split or shares images with it, or with
            what is trained on.
        DataError: splits that cannot be used.
    """
    if not isinstance(data, DataSpec) or data.labels != "one":
        what = data.task if not isinstance(data, DataSpec) else "classification with data.labels: several"
        raise SweepError(
            f"a grid is chosen from by accuracy on a validation split, which {what} does not have; use data of "
            f"classification with one label an image, or one dyt train for each setting"
        )
    found = _named(data, validation)
    if _same(_pieces(data, found.validation), _pieces(data, found.test)):
        raise SweepError(
            f"the validation split '{found.validation}' is of the test split '{found.test}', by which nothing may be "
            f"chosen; give another --validation, or leave it out to draw one from the training images"
        )
    _check(data, found)
    return found


def _named(data: DataSpec, validation: str | None) -> Splits:
    layout, root = layout_of(data), Path(data.root)
    train, test = (split_name(data, training) for training in (True, False))
    for learnt, held, both in layout.choosing if data.train is None else ():
        names = [piece.name for piece in pieces(both)]
        there = test not in {learnt, held} and all(layout.has(root, name) for name in (learnt, held, *names))
        if there and validation in {None, held}:
            return Splits(learnt, held, both, test)
    if validation is not None:
        return Splits(train, validation, f"{train}+{validation}", test)
    parts = _pieces(data, train)
    return Splits(_share(parts, 0, SHARE), _share(parts, SHARE, 100), train, test)


def _share(parts: Sequence[Piece], first: int, last: int) -> str:
    """The names of these parts of each."""
    names = []
    for piece in parts:
        low, high = (piece.first + (piece.last - piece.first) * share // 100 for share in (first, last))
        names.append(f"{piece.name}[{low}-{high}%]")
    return "+".join(names)


def _check(data: DataSpec, found: Splits) -> None:
    """That no image is in two of them, by the names of splits, and of files where there are files."""
    choosing = open_data(data.model_copy(update={"train": found.train, "test": found.validation}))
    testing = open_data(data.model_copy(update={"train": found.both, "test": found.test}))
    _apart(data, choosing.train, choosing.test)
    for split in (choosing.train, choosing.test, testing.train):
        _apart(data, split, testing.test)


def _apart(data: DataSpec, one: Split, other: Split) -> None:
    common = sorted(path.name for path in set(one.paths) & set(other.paths))
    if common or _same(_pieces(data, one.name), _pieces(data, other.name)):
        which = f" ({some(common)})" if common else ""
        raise SweepError(
            f"'{data.root}': images of '{one.name}' are in '{other.name}' as well{which}; training, validation and "
            f"test images must be different ones: give other splits with data.train, data.test or --validation"
        )


def _pieces(data: DataSpec, name: str) -> tuple[Piece, ...]:
    layout, root = layout_of(data), Path(data.root)
    return pieces(name, lambda given: layout.has(root, given))


def _same(one: Sequence[Piece], other: Sequence[Piece]) -> bool:
    """Whether they have a part of a split in common."""
    return any(a.name == b.name and a.first < b.last and b.first < a.last for a in one for b in other)
