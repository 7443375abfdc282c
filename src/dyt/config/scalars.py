"""Strict numbers, strings and booleans in every spec: none is taken for another, and none is too large to compute with.

The rule is put into pydantic's schema of a spec class, so that the plain `int`, `float`, `str` and `bool` that a
plug-in writes obey it as well. An integer is fine for a float, nothing else is changed into something else. NumPy's
numbers are numbers.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

from pydantic_core import CoreSchema, PydanticCustomError, core_schema

LARGEST_NUMBER = 1e18
"""In either direction: the square of a larger number is infinite in float32."""
LARGEST_INT = 2**63 - 1
"""In either direction: what a tensor of int64 can hold."""
_BY_NAME = frozenset({"fields", "choices"})
"""Keys of pydantic's schemas whose values have names of a spec for keys."""
_LEFT_ALONE = frozenset({"default", "metadata", "config", "serialization", "cls", "expected", "ref"})
"""Keys of pydantic's schemas that hold no schema of what is given."""


def strict(schema: CoreSchema) -> CoreSchema:
    """The schema of a spec class with every number, string and boolean in it made strict and bounded."""
    made: CoreSchema = _strict(schema)
    return made


def _strict(part: Any) -> Any:
    if isinstance(part, (list, tuple)):
        return type(part)(map(_strict, part))
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind in {"int", "float", "str", "bool"} and "strict" not in part:
        part = {**part, "strict": True}
        if kind == "int":
            whole: Any = core_schema.no_info_after_validator_function(_int64, part)
            return core_schema.no_info_before_validator_function(_whole, whole)
        if kind == "float":
            return core_schema.no_info_after_validator_function(_computable, part)
        return part
    made = {}
    if kind == "union":  # an error in a union names the choice, by its type and not by our functions
        part = {
            **part,
            "choices": [each if isinstance(each, tuple) else (each, _label(each)) for each in part["choices"]],
        }
    for key, value in part.items():
        if key in _BY_NAME and isinstance(value, dict):  # names of fields, which may be those of a schema's own keys
            made[key] = {name: _strict(inner) for name, inner in value.items()}
        else:
            made[key] = value if key in _LEFT_ALONE else _strict(value)
    return made


def _label(choice: Any) -> str:
    return {"tuple": "list"}.get(choice["type"], str(choice["type"]))


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _int64(value: int) -> int:
    if abs(value) > LARGEST_INT:
        raise PydanticCustomError("int_range", "Input should be an integer of at most 64 bits")
    return value


def _computable(value: float) -> float:
    if abs(value) > LARGEST_NUMBER:
        raise PydanticCustomError("float_range", f"Input should be at most {LARGEST_NUMBER:g} in size")
    return value
