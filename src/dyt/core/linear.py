"""Linear maps that decide, in float32; and which modules may be read past their call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Router(nn.Linear):
    """A linear map whose outputs decide something: float32 whatever its weights and inputs are, also under autocast.

    State-dict keys and initialisation are those of `nn.Linear`. It is called as a module, so that hooks, low-rank
    updates and offloading see it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out) float32."""
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(input.float(), self.weight.float(), bias)


def routed(router: Any, x: Tensor) -> Tensor:
    """(..., C_out) float32, also under autocast: x (..., C_in) through a router, or what another library put there."""
    with torch.autocast(x.device.type, enabled=False):
        found: Tensor = router(x.float())
        return found.float()


def bare(module: nn.Module) -> bool:
    """Whether nobody would notice that a module is not called: its weights may be read instead.

    Not so where hooks are registered on it, or where its forward was replaced, as accelerate does to offload it.
    """
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not hooks and "forward" not in vars(module)
