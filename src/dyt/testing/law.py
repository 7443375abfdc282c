"""Law: one law for one component, and what is drawn for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

Strategies = Mapping[str, st.SearchStrategy[Any]]


def _every(drawn: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Law:
    """One law for one component: `holds(**fixed, **drawn)` raises where it does not hold.

    `concerns`: whether it is tried for what was drawn.
    """

    number: int
    says: str
    holds: Callable[..., None]
    drawn: Strategies
    fixed: Mapping[str, Any] = field(default_factory=dict)
    concerns: Callable[[Mapping[str, Any]], bool] = _every
