"""The adapter with the router in its down projection and its scale in the up projection, and a dispatcher for them.

Shapes: B images, N tokens, P patch tokens, C channels, d hidden units.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.adapters.base import Adapter
from dyt.adapters.bottleneck import Bottleneck
from dyt.core.calls import bare
from dyt.core.context import DecisionContext
from dyt.core.offloading import at_hand
from dyt.core.scores import Router, linear_scores
from dyt.dispatchers.base import Decision, Dispatcher
from dyt.dispatchers.learned import Learned
from dyt.inference.rewrites.products import add_linear, fixed, scaled

MULTIPLE = 8
"""Of outputs that the joint product is filled up to with zeros: one of 72 took up to an eighth less than one of 65."""


class FoldedAdapter(Adapter):
    """x + s * up(act(down(x))) with s folded into up, and the router, where there is one, as one more output of down.

    A router's logits are float32 (`DecisionContext`): of the joint product where that is float32, else of one of
    their own.

    Args:
        adapter: what it computes.
        router: C -> 1, or None.
    """

    joins: ClassVar[bool] = False
    """Whether `joined` is less work than the sum, and then `added`."""

    def __init__(self, adapter: Bottleneck, router: nn.Linear | None = None) -> None:
        nn.Module.__init__(self)
        self.placement, self.input, self.activation = adapter.placement, adapter.input, adapter.activation
        self.units = adapter.down.out_features
        self.router = None if router is None else fixed(router.weight, router.bias, Router)
        layers = [adapter.down] if router is None else [adapter.down, router]
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        spare = -len(weight) % MULTIPLE
        self.down = fixed(F.pad(weight, (0, 0, 0, spare)), F.pad(bias, (0, spare)))
        self.up = scaled(adapter.up, adapter.scale)

    def hidden(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, d) before the activation, and (B, N) float32, the router's logits, where one product gives both."""
        if self.router is None or x.dtype != torch.float32 or torch.is_autocast_enabled(x.device.type):
            with at_hand(self.down):
                return F.linear(x, self.down.weight[: self.units], self.down.bias[: self.units]), None
        both = self.down(x)
        return both[..., : self.units], both[..., self.units]

    def scores(self, patches: Tensor) -> Tensor:
        """(B, P) float32, the router's logits of patch tokens (B, P, C), in a product of their own."""
        assert self.router is not None
        return linear_scores(self.router, patches)

    def added(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x + Adapter(x), (B, N, C), in a tensor of its own; (B, N) float32 logits as of `hidden`."""
        hidden, logits = self.hidden(x)
        return add_linear(x, self.activation(hidden), self.up), logits

    def joined(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """y = x + branch, (B, N, C), and `added` of y."""
        y = x + branch
        return y, *self.added(y)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        out: Tensor = self.up(self.activation(self.hidden(x)[0]))
        return out


class ScoredElsewhere(Dispatcher):
    """`learned` at inference, by logits that were computed elsewhere: active iff above the site's threshold."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        nn.Module.__init__(self)
        self.level = dispatcher.level

    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        assert context.scores is not None
        logits = context.scores()
        return Decision(logits - context.threshold.float() > 0, logits=logits)


def router_of(dispatcher: Dispatcher) -> nn.Linear | None:
    """The router C -> 1 of a dispatcher that scores each token by it alone; None of another."""
    if type(dispatcher) is not Learned or dispatcher.level != "token":
        return None
    router = dispatcher.router
    return router if type(router) is Router and type(router.weight) is nn.Parameter and bare(router) else None
