"""Grids: axes `field=value,value`, and their points."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from dyt.errors import shortened
from dyt.sweeps.vtab1k import SweepError

MOST = 10_000
"""Points of a grid."""
PRESET = "preset"
"""The axis that is no field: the model of a preset."""
OURS: Mapping[str, str] = {
    "train.seed": "give --seeds",
    "data.root": "give --data",
    "data.train": "every point has the same training images; give --set",
    "data.test": "every point has the same test images; give --set",
}
"""Fields that are no axis, and what to give instead."""


@dataclass(frozen=True)
class Axis:
    """A field of a run's spec and its values, as they are written."""

    field: str
    values: tuple[str, ...]

    @staticmethod
    def of(text: str, option: str = "--grid") -> Axis:
        """Of `field=value,value`; commas in brackets, braces and quotation marks are within a value.

        Raises:
            SweepError: no such thing, a value twice, or a field that is the sweep's own.
        """
        field, equals, listed = text.partition("=")
        field, values = field.strip(), tuple(each.strip() for each in _divided(listed))
        if not equals or not field or not all(values):
            raise SweepError(f"{option} {shortened(text)}: write it as field=value,value, such as train.lr=1e-3,3e-3")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise SweepError(
                f"{option} {shortened(text)}: the value {shortened(twice[0])} is there twice; leave one out"
            )
        if field in OURS:
            raise SweepError(f"{option} {shortened(text)}: {field} is no axis of a grid; {OURS[field]}")
        return Axis(field, values)


@dataclass(frozen=True)
class Point:
    """One point: its settings, and those of them that are compared rather than chosen.

    Attributes:
        settings: (field, value) as they are written.
        compared: the fields among them of which every value is reported.
    """

    settings: tuple[tuple[str, str], ...]
    compared: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """In words."""
        return _words(self.settings)

    @property
    def arm(self) -> str:
        """What of it is compared, in words; the same for the points among which one is chosen."""
        return _words([each for each in self.settings if each[0] in self.compared])

    @property
    def choice(self) -> str:
        """What of it is chosen, in words."""
        return _words([each for each in self.settings if each[0] not in self.compared])

    @property
    def folder(self) -> str:
        """A name of a folder, readable and its own."""
        readable = re.sub(r"[^\w.=+-]+", "_", self.label)[:80].strip("_.")
        return f"{readable}-{hashlib.sha256(self.label.encode()).hexdigest()[:8]}"


def points(chosen: Sequence[Axis], compared: Sequence[Axis] = ()) -> list[Point]:
    """All points, those of one arm together; a single one where there are no axes.

    Raises:
        SweepError: a field in two axes, or too many points.
    """
    axes = [*compared, *chosen]
    fields = [axis.field for axis in axes]
    twice = [field for field in fields if fields.count(field) > 1]
    if twice:
        raise SweepError(f"{twice[0]} is in two axes; give its values in one, such as {twice[0]}=value,value")
    count = prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise SweepError(f"the grid has {count:,} points; at most {MOST:,}")
    names = tuple(axis.field for axis in compared)
    return [
        Point(tuple(zip(fields, values, strict=True)), names) for values in product(*(axis.values for axis in axes))
    ]


def _words(settings: Sequence[tuple[str, str]]) -> str:
    return " ".join(f"{field}={value}" for field, value in settings) or "as given"


def _divided(text: str) -> list[str]:
    """At the commas that are in no bracket, brace or quotation marks."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
