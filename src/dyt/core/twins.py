"""Copies of models without memory, to try things on before anything is changed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def without_memory(module: nn.Module) -> nn.Module:
    """A copy whose tensors have shapes and dtypes and no values."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {id(t): torch.empty_like(t, device="meta") for t in tensors}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(memo[id(parameter)], parameter.requires_grad)
    return copy.deepcopy(module, memo)
