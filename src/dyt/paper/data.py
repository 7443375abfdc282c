"""Reads the tables of this folder: what the paper prints (arXiv:2403.11808v2), figure for figure."""

from __future__ import annotations

import csv
from importlib import resources
from typing import Any, TypeVar

from pydantic import TypeAdapter

Row = TypeVar("Row")


def columns(name: str) -> list[dict[str, str]]:
    """The rows of a table of this folder by column, as they are written."""
    return list(csv.DictReader((resources.files("dyt.paper") / name).read_text(encoding="utf-8").splitlines()))


def table(row: type[Row], name: str) -> tuple[Row, ...]:
    """The same as instances of a dataclass whose fields the columns are; an empty cell is None."""
    filled: list[dict[str, Any]] = [{key: cell or None for key, cell in cells.items()} for cells in columns(name)]
    return TypeAdapter(tuple[row, ...]).validate_python(filled)  # type: ignore[valid-type]
