"""Dynamic, parameter-efficient vision transformers: freeze a ViT, skip tokens, train one per cent of the weights."""

import builtins
from typing import TYPE_CHECKING

from dyt import (
    adapters,
    deprecated,
    dispatchers,
    executors,
    families,
    heads,
    reducers,
    registry,
    testing,
    tuners,
    variants,
)
from dyt.assembly.build import build
from dyt.assembly.merging import merge
from dyt.assembly.support import Support, supports
from dyt.assembly.undo import unwrap
from dyt.bank import Bank
from dyt.config.objective import ObjectiveSpec
from dyt.config.presets import preset, presets
from dyt.config.schedules import Ramp
from dyt.config.spec import BackboneSpec, CapacitySpec, DyTSpec, HeadSpec
from dyt.core.context import carry_context
from dyt.core.route import Route, Tokens
from dyt.errors import CheckpointError, ContextError, DyTError, SpecError, UnsupportedError, WeightsError, quoted
from dyt.inference.break_even import calibrate, calibrate_break_even
from dyt.inference.budget import Budget
from dyt.inference.budgets import calibrate_budgets
from dyt.inference.capacity import calibrate_capacity
from dyt.inference.rewrites import optimize, quantize
from dyt.inference.thresholds import calibrate_thresholds
from dyt.io.adaptformer import from_adaptformer
from dyt.io.checkpoint import load, save
from dyt.io.from_peft import from_peft
from dyt.io.official import from_official
from dyt.io.sharing import from_pretrained, push_to_hub, save_pretrained
from dyt.io.to_peft import to_peft
from dyt.measure.macs import count_macs
from dyt.model.budgets import budgets
from dyt.model.dynamic import DynamicModel, execution, forced, plain, record
from dyt.objective.step import TuningStep

__version__ = "0.2.0"

deprecated.install()
if not TYPE_CHECKING:  # which would take every name for one that is there
    __getattr__ = deprecated.submodule


def list(kind: str) -> builtins.list[str]:
    """The registered names of a kind: dispatchers, adapters, variants, executors, families, tuners, reducers or heads.

    Plug-ins are among them.

    Raises:
        DyTError: an unknown kind.
    """
    if not isinstance(kind, str) or kind not in registry.KINDS:
        raise DyTError(f"no kind of component {quoted(kind)}; allowed: {', '.join(registry.KINDS)}")
    return registry.KINDS[kind].names()


__all__ = [
    "BackboneSpec",
    "Bank",
    "Budget",
    "CapacitySpec",
    "CheckpointError",
    "ContextError",
    "DyTError",
    "DyTSpec",
    "DynamicModel",
    "HeadSpec",
    "ObjectiveSpec",
    "Ramp",
    "Route",
    "SpecError",
    "Support",
    "Tokens",
    "TuningStep",
    "UnsupportedError",
    "WeightsError",
    "adapters",
    "budgets",
    "build",
    "calibrate",
    "calibrate_break_even",
    "calibrate_budgets",
    "calibrate_capacity",
    "calibrate_thresholds",
    "carry_context",
    "count_macs",
    "dispatchers",
    "execution",
    "executors",
    "families",
    "forced",
    "from_adaptformer",
    "from_official",
    "from_peft",
    "from_pretrained",
    "heads",
    "list",
    "load",
    "merge",
    "optimize",
    "plain",
    "preset",
    "presets",
    "push_to_hub",
    "quantize",
    "record",
    "reducers",
    "registry",
    "save",
    "save_pretrained",
    "supports",
    "testing",
    "to_peft",
    "tuners",
    "unwrap",
    "variants",
]
