"""What a user holds of a model: itself, or something that wraps or holds it."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from dyt.errors import DyTError

T = TypeVar("T", bound=nn.Module)
ALLOWED = (
    "a DynamicModel, or what holds one: DistributedDataParallel, DataParallel, FSDP, torch.compile, TuningStep, "
    "AveragedModel, timm's ModelEma, PeftModel"
)


def runner(holder: nn.Module) -> str | None:
    """The name of what runs the model inside in a way of its own: over ranks, in replicas, compiled; else None."""
    if hasattr(holder, "_orig_mod"):
        return "torch.compile"
    wraps = isinstance(holder, (DistributedDataParallel, DataParallel)) or flat(holder)
    return type(holder).__name__ if wraps else None


def flat(holder: nn.Module) -> bool:
    """Whether torch's FullyShardedDataParallel is in it, which keeps parameters in flat shards."""
    return any(hasattr(module, "_fsdp_wrapped_module") for module in holder.modules())


def held(holder: Any, kind: type[T]) -> T:
    """The one module of this kind that something is, or holds.

    Args:
        holder: a module, or timm's first `ModelEma`, which is none.
        kind: the class that is looked for.

    Raises:
        DyTError: none, or several.
    """
    if isinstance(holder, kind):
        return holder
    inside = holder if isinstance(holder, nn.Module) else getattr(holder, "ema", None)
    if not isinstance(inside, nn.Module):
        raise DyTError(f"given a {type(holder).__name__}; allowed: {ALLOWED}")
    found = {name: module for name, module in inside.named_modules() if isinstance(module, kind)}
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise DyTError(f"given a {type(holder).__name__} that holds no {kind.__name__}; allowed: {ALLOWED}")
    raise DyTError(
        f"given a {type(holder).__name__} that holds {len(found)} models ({', '.join(found)}); give one of them"
    )
