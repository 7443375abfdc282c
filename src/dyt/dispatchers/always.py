"""`always`: every token is active. With the bottleneck adapter this is the static adapter (AdaptFormer)."""

from __future__ import annotations

import torch
from torch import Tensor

from dyt.core.context import DecisionContext
from dyt.dispatchers.base import Decision, Dispatcher, DispatcherSpec
from dyt.registry import dispatchers


class AlwaysSpec(DispatcherSpec):
    """`always`: every token is active; `level` has no effect."""

    type: str = "always"


@dispatchers("always")
class Always(Dispatcher):
    """No weights, no decision: the route is dense and every executor runs the branch as it is."""

    Spec = AlwaysSpec
    skips = False

    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        return Decision(torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), dense=True)
