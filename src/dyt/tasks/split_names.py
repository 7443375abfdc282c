"""What `data.train` and `data.test` may say: a split, a part of one (`train[0-80%]`), or several (`train+val`).

A part is of an order of the images that depends on their number alone, so that parts whose percentages do not overlap
have no image in common, on every machine and in every version.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

from dyt.tasks.bands import Picture
from dyt.tasks.layouts import DataError, Split

PART = re.compile(r"(?P<name>[^\[\]]+)\[(?P<first>[0-9]{1,3})-(?P<last>[0-9]{1,3})%\]")


@dataclass(frozen=True)
class Piece:
    """A split, or the images of it from `first` to `last` per cent."""

    name: str
    first: int = 0
    last: int = 100


def pieces(text: str, has: Callable[[str], bool] = lambda name: False) -> tuple[Piece, ...]:
    """What a name of a split is made of.

    Args:
        has: whether the data has a split of exactly this name, which then is meant.

    Raises:
        DataError: a part that is none.
    """
    if not re.search(r"[+\[]", text) or has(text):
        return (Piece(text),)
    return tuple(_piece(each.strip(), text) for each in text.split("+"))


def _piece(text: str, whole: str) -> Piece:
    if text and not re.search(r"[\[\]]", text):
        return Piece(text)
    found = PART.fullmatch(text)
    if found is None or not int(found["first"]) < int(found["last"]) <= 100:
        raise DataError(
            f"no split '{whole[:60]}'; write a name, a part of a split as train[0-80%], or several as train+val"
        )
    return Piece(found["name"], int(found["first"]), int(found["last"]))


def composed(name: str, parts: Sequence[Piece], opened: Callable[[str], Split]) -> Split:
    """The split that is made of these pieces.

    Raises:
        DataError: those of `opened`; a part without an image.
    """
    splits = [_taken(opened(piece.name), piece) for piece in parts]
    return splits[0] if len(splits) == 1 else _joined(name, splits)


def _taken(split: Split, piece: Piece) -> Split:
    if (piece.first, piece.last) == (0, 100):
        return split
    order = sorted(range(len(split)), key=lambda i: hashlib.sha256(b"%d" % i).digest())
    first, last = (len(split) * share // 100 for share in (piece.first, piece.last))
    positions = tuple(sorted(order[first:last]))
    name = f"{piece.name}[{piece.first}-{piece.last}%]"
    if not positions:
        raise DataError(f"'{name}' has no image: '{piece.name}' has {len(split)}; take a larger part")
    return replace(
        split,
        name=name,
        labels=tuple(split.labels[i] for i in positions),
        read=partial(_one_of, split.read, positions),
        paths=tuple(split.paths[i] for i in positions) if split.paths else (),
    )


def _joined(name: str, splits: Sequence[Split]) -> Split:
    ends = tuple(accumulate(map(len, splits)))
    return Split(
        name,
        tuple(label for split in splits for label in split.labels),
        partial(_of_several, tuple(split.read for split in splits), ends),
        tuple(path for split in splits for path in split.paths) if all(split.paths for split in splits) else (),
        all(split.named for split in splits),
    )


def _one_of(read: Callable[..., Picture], positions: Sequence[int], i: int, *channels: int) -> Picture:
    return read(positions[i], *channels)


def _of_several(reads: Sequence[Callable[..., Picture]], ends: Sequence[int], i: int, *channels: int) -> Picture:
    at = bisect_right(ends, i)
    return reads[at](i - (ends[at - 1] if at else 0), *channels)
