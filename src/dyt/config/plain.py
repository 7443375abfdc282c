"""Bounds on plain data before anything else reads it: how deep it is, how many values it has, how long its strings are.

A spec is a page of text. Data that exceeds a page by far is refused at once, in words, and so is data that contains
itself, which is deeper than any bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyt.config.scalars import LARGEST_INT, LARGEST_NUMBER
from dyt.errors import SpecError

DEEPEST = 32
"""Mappings and lists inside one another."""
MOST_VALUES = 2_000
"""Keys and values together; a whole run has about 200."""
LONGEST_STRING = 10_000
"""Characters."""


def check_plain(data: Any, most: int = MOST_VALUES) -> None:
    """Refuses plain data that is no spec by its mere size; what is wrong with its values is left to the spec.

    Args:
        data: what is given.
        most: so many keys and values.

    Raises:
        SpecError: too deep (or containing itself), too many values, or too long a string.
    """
    level, count = [data], 0
    for _ in range(DEEPEST + 1):
        count += len(level)
        if count > most:
            raise SpecError(f"a spec has at most {most} values; given more")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str) and len(value) > LONGEST_STRING:
                raise SpecError(
                    f"a string in a spec has at most {LONGEST_STRING} characters; given one of {len(value)}, which "
                    f"starts with {value[:30]!r}"
                )
            if isinstance(value, Mapping):
                below += [*value.keys(), *value.values()] if len(value) <= most else [None] * (most + 1)
            elif isinstance(value, (list, tuple, set, frozenset)):
                below += value if len(value) <= most else [None] * (most + 1)
            if len(below) > most:
                break
        level = below
        if not level:
            return
    raise SpecError(
        f"a spec has at most {DEEPEST} mappings and lists inside one another; given more, or one that contains itself"
    )


def check_numbers(data: Any) -> None:
    """Refuses numbers in free values (`backbone.args`) that are too large for any computation.

    Raises:
        ValueError: naming the limit.
    """
    level = [data]
    for _ in range(DEEPEST + 1):
        for value in level:
            if isinstance(value, int) and abs(value) > LARGEST_INT:
                raise ValueError("an integer has at most 64 bits")
            if isinstance(value, float) and not abs(value) <= LARGEST_NUMBER:
                raise ValueError(f"a number is at most {LARGEST_NUMBER:g} in size")
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list, tuple))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
