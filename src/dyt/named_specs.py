"""Model specs by name. Each is the whole spec as plain data, so that it can be printed, saved and changed."""

from __future__ import annotations

from typing import Any

from dyt.errors import SpecError, nearest
from dyt.spec import DyTSpec, parse

_STATIC = {"rate": 1.0, "rate_weight": 0.0, "complete": 0.0, "distill": 0.0}

_STATIC_ADAPTER: dict[str, Any] = {"dispatcher": {"type": "always"}, "objective": _STATIC}
_ALONE: dict[str, Any] = _STATIC_ADAPTER | {"adapter": {"type": "none"}}

_PRESETS: dict[str, dict[str, Any]] = {
    # The paper's defaults (table 6, "dyt"): d = 64, r = 0.5, tau = 5, no remedy for short runs.
    "dyt": {},
    # Table 3's settings on VTAB-1K: d = 8.
    "dyt_vtab": {"adapter": {"type": "bottleneck", "dim": 8}},
    # AdaptFormer is DyT with every token active and neither of the complete model's terms.
    "static_adapter": _STATIC_ADAPTER,
    "static_adapter_vtab": _STATIC_ADAPTER | {"adapter": {"type": "bottleneck", "dim": 8}},
    # The paper's baselines (tables 3 and 6), nothing dispatched; docs/baselines.md says what each computes, and why so.
    "adaptformer": _STATIC_ADAPTER,
    "adaptformer_vtab": _STATIC_ADAPTER | {"adapter": {"type": "bottleneck", "dim": 8}},
    "full": _ALONE | {"trainable": "full"},
    "linear": _ALONE,
    "bitfit": _ALONE | {"tuner": {"type": "bitfit"}},
    "lora": _ALONE | {"tuner": {"type": "lora", "rank": 32}},
    "lora_vtab": _ALONE | {"tuner": {"type": "lora", "rank": 8}},
    "vpt": _ALONE | {"tuner": {"type": "vpt", "tokens": 8}},
    "vpt_vtab": _ALONE | {"tuner": {"type": "vpt", "tokens": 57}},
    "vpt_shallow": _ALONE | {"tuner": {"type": "vpt", "tokens": 50, "deep": False}},
}


def presets() -> list[str]:
    """The names that `dyt.build` takes in place of a spec."""
    return sorted(_PRESETS)


def preset(name: str) -> DyTSpec:
    """The spec of a preset.

    Raises:
        SpecError: an unknown name, with the nearest one and the list.
    """
    if name not in _PRESETS:
        raise SpecError(f"no preset '{name}'; {nearest(name, presets())}")
    return parse(DyTSpec, _PRESETS[name])
