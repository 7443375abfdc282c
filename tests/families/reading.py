"""Reading the attention: out of a plain backbone, and as a family tells it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import dyt
from dyt.model.block import DynamicBlock


def maps(backbone: nn.Module, x: Any, **kwargs: Any) -> list[Tensor]:
    """The attention (B, H, N, N) of each block of a plain backbone, as its dropout sees it on timm's unfused path."""
    seen: list[Tensor] = []
    hooks = []
    for path, module in backbone.named_modules():
        if path.startswith("blocks.") and hasattr(module, "fused_attn"):
            module.fused_attn = False
            hooks.append(module.attn_drop.register_forward_hook(lambda m, i, o: seen.append(o)))
    with torch.no_grad():
        backbone(x, **kwargs)
    for hook in hooks:
        hook.remove()
    return seen


def rows(model: dyt.DynamicModel, x: Any, **kwargs: Any) -> list[Tensor]:
    """The family's answer at each block, for the tokens that enter it when everything is active."""
    found: list[Tensor] = []
    prefix = model.sites[0].prefix

    def ask(block: nn.Module, args: Any, kwargs: Any) -> None:
        assert isinstance(block, DynamicBlock)
        found.append(block.family.class_attention(block, args[0], prefix, *args[1:], **kwargs))

    blocks = [module for module in model.modules() if isinstance(module, DynamicBlock)]
    hooks = [block.register_forward_pre_hook(ask, with_kwargs=True) for block in blocks]
    with torch.no_grad(), dyt.execution(model, "complete"):
        model(x, **kwargs)
    for hook in hooks:
        hook.remove()
    return found
