"""What differs between the versions of torch and timm that are allowed: here, and nowhere else."""

from __future__ import annotations

from typing import Any

from torch import nn


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
