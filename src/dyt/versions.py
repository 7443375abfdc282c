"""What differs between the versions of torch and timm that are allowed: here, and nowhere else."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from torch import nn
from torch.torch_version import TorchVersion

READS_CONTEXT_VARIABLES = TorchVersion(torch.__version__) >= (2, 14, 1)
"""Whether torch.compile is known to read a ContextVar, and to guard on its value. Else `dyt.steer` has a mirror for it."""


def in_coroutine() -> bool:
    """Whether this code runs in an event loop, where contexts of several coroutines are open at once."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def reset_classifier(backbone: nn.Module, num_classes: int) -> None:
    """timm's `reset_classifier`; the new head has the backbone's dtype and device, as in timm since 1.0.29.

    Args:
        backbone: a timm model, or what has its interface; changed.
        num_classes: outputs of the new head; 0 for none.
    """
    before = list(backbone.parameters())  # kept alive, so that no new parameter can have the identity of an old one
    old = {id(parameter) for parameter in before}
    model: Any = backbone
    model.reset_classifier(num_classes)
    like = next((parameter for parameter in before if parameter.is_floating_point()), None)
    if like is None:
        return
    for module in backbone.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(id(parameter) in old for parameter in own):
            module.to(device=like.device, dtype=like.dtype)
