"""Specs of a component known by nothing but its spec class: drawn from the JSON schema, where that is simple."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from pydantic import ValidationError

from dyt.config.base import spec_class
from dyt.core.context import BuildContext
from dyt.errors import DyTError
from dyt.registry import KINDS

SPAN = 16
"""How far values go from the one bound of a number that has no other."""
LARGE = 1000
"""Bounds of an integer that are further apart are those of what a machine can hold; no law needs such sizes."""


def allowed(kind: str, name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Specs of a registered component as plain data: fields that are simple are drawn or left out, others left out.

    Simple are booleans, literals, None, and numbers with a bound. What the spec or the component itself refuses (by a
    DyTError) is not drawn.
    """
    component = KINDS[kind].get(name)
    schema = spec_class(component).model_json_schema()
    drawn = {field: values(part) for field, part in schema["properties"].items() if field != "type"}
    simple = {field: strategy for field, strategy in drawn.items() if strategy is not None}
    fields = st.fixed_dictionaries({}, optional=simple)
    return fields.map(lambda given: {"type": name, **given}).filter(lambda plain: _taken(kind, component, plain))


def values(part: Mapping[str, Any]) -> st.SearchStrategy[Any] | None:
    """What one field's schema allows, as plain data; None where it is not simple."""
    if "anyOf" in part:
        branches = [found for branch in part["anyOf"] if (found := values(branch)) is not None]
        return st.one_of(branches) if branches else None
    if "const" in part:
        return st.just(part["const"])
    if "enum" in part:
        return st.sampled_from(part["enum"])
    plain = {"boolean": st.booleans(), "null": st.none()}
    return _numbers(part) if part.get("type") in {"integer", "number"} else plain.get(part.get("type", ""))


def _numbers(part: Mapping[str, Any]) -> st.SearchStrategy[Any] | None:
    low, high = part.get("minimum", part.get("exclusiveMinimum")), part.get("maximum", part.get("exclusiveMaximum"))
    if low is None and high is None:
        return None
    low, high = high - SPAN if low is None else low, low + SPAN if high is None else high
    open_low, open_high = "exclusiveMinimum" in part, "exclusiveMaximum" in part
    if part["type"] == "integer":
        if high - low > LARGE:
            high = low + SPAN
        return st.integers(low + open_low, high - open_high)
    # Two decimals: specs are written by people, and a number next to a bound proves nothing about a law.
    return st.floats(low, high, exclude_min=open_low, exclude_max=open_high).map(
        lambda value: rounded if low < (rounded := round(value, 2)) < high else value
    )


def stands(reducer: str, plain: Mapping[str, Any], depth: int) -> bool:
    """Whether a reducer's spec, as plain data, fits a backbone of `depth` blocks: no DyTError refuses it."""
    component = KINDS["reducers"].get(reducer)
    try:
        spec = spec_class(component).model_validate(plain)
        layers = component.layers(spec, depth)
        for i, block in enumerate(layers):
            component(spec, BuildContext(8, block=block, index=i, of=len(layers)))
    except (ValidationError, DyTError):
        return False
    return True


def depths(reducer: str) -> list[int]:
    """The smallest depths of a backbone, three at most, that a reducer's default spec fits.

    Raises:
        AssertionError: it fits none of 24 blocks or fewer.
    """
    found = [depth for depth in range(1, 25) if stands(reducer, {"type": reducer}, depth)]
    if not found:
        raise AssertionError(f"reducers '{reducer}' with its default spec fits no backbone of 24 blocks or fewer")
    return found[:3]


def _taken(kind: str, component: Any, plain: dict[str, Any]) -> bool:
    try:
        spec = spec_class(component).model_validate(plain)
        if kind == "dispatchers":
            component(spec, BuildContext(8))
        elif kind == "adapters":
            component(spec, 8)
        elif kind == "tuners":
            component(spec)
    except (ValidationError, DyTError):
        return False
    return True
