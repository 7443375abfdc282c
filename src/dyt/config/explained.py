"""What pydantic found wrong with a spec, as one line of bounded length."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from dyt.errors import LONGEST_LINE, quoted, shortened

LISTED = 5
"""So many wrong fields are named; of further ones only the number is."""
LONGEST_FIELD, LONGEST_REASON = 120, 400
"""Characters."""


def explain(error: ValidationError) -> str:
    """A pydantic error as one line: `field: what is wrong (given ...)`, joined by semicolons.

    Of many wrong fields the first are named, as many as fit into a line that can be read.
    """
    found, count = error.errors(include_url=False, include_context=False), error.error_count()
    said = [_said(line, error.title) for line in found[:LISTED]]
    while len(said) > 1 and len("; ".join(said)) > LONGEST_LINE:
        said.pop()
    more = count - len(said)
    return shortened("; ".join(said), LONGEST_LINE) + (f"; and {more} more" if more else "")


def _said(line: Any, title: str) -> str:
    path = shortened(".".join(shortened(part, LONGEST_FIELD) for part in line["loc"]), LONGEST_FIELD)
    hint = _hint(line["type"], line["input"])
    return f"{path or title}: {shortened(line['msg'], LONGEST_REASON)} (given {quoted(line['input'])}{hint})"


def _hint(kind: str, given: Any) -> str:
    """How to write what was probably meant, where a value is of another type than its field."""
    number = _number(given)
    if kind in {"int_type", "float_type"} and isinstance(given, str) and number is not None:
        return "; write it without quotes" if kind == "float_type" or number.is_integer() else ""
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f"; write {int(given)}" if abs(given) < 1e15 else ""
    if kind == "string_type" and isinstance(given, (bool, int, float)):
        return "; put it in quotes"
    if kind == "bool_type":
        return "; write true or false"
    return ""


def _number(given: Any) -> float | None:
    try:
        return float(given[:LONGEST_FIELD]) if isinstance(given, str) else None
    except ValueError:
        return None
