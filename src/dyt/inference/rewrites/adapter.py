"""The adapter with router and stand-in in its products and its scale in the up projection, and a dispatcher for them.

Shapes: B images, N tokens, P patch tokens, C channels, d hidden units.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.adapters.base import Adapter
from dyt.adapters.bottleneck import Bottleneck
from dyt.adapters.low_rank import LowRank
from dyt.core.calls import bare
from dyt.core.context import DecisionContext
from dyt.core.offloading import at_hand
from dyt.core.route import Route
from dyt.core.scores import Router, linear_scores
from dyt.dispatchers.base import Decision, Dispatcher
from dyt.dispatchers.learned import Learned
from dyt.inference.rewrites.products import add_linear, fixed, scaled

MULTIPLE = 8
"""Of outputs that the joint product is filled up to with zeros: one of 72 took up to an eighth less than one of 65."""


class FoldedAdapter(Adapter):
    """x + s * up(act(down(x))) with s folded into up, and the router, where there is one, as one more output of down.

    A router's logits are float32 (`DecisionContext`): of the joint product where that is float32, else of one of
    their own. A stand-in's units stand beside the adapter's in both products, with one that is always 1 for its bias.

    Args:
        adapter: what it computes.
        router: C -> 1, or None.
        stand_in: what `stood_in` computes as well; or None.
    """

    joins: ClassVar[bool] = False
    """Whether `joined` is less work than the sum, and then `added`."""

    def __init__(self, adapter: Bottleneck, router: nn.Linear | None = None, stand_in: LowRank | None = None) -> None:
        nn.Module.__init__(self)
        self.placement, self.input, self.activation = adapter.placement, adapter.input, adapter.activation
        self.units = adapter.down.out_features
        self.router = None if router is None else fixed(router.weight, router.bias, Router)
        rows: list[tuple[Tensor, Tensor]] = [(adapter.down.weight, adapter.down.bias)]
        self.up = scaled(adapter.up, adapter.scale)
        if stand_in is not None:
            down, up = stand_in.down, stand_in.up
            rows += [(down.weight, down.bias), (down.weight.new_zeros(1, down.in_features), down.bias.new_ones(1))]
            self.up = fixed(torch.cat([self.up.weight, up.weight, up.bias[:, None]], 1), self.up.bias)
        self.width = sum(len(bias) for _, bias in rows)
        if router is not None:
            rows.append((router.weight, router.bias))
        weight, bias = (torch.cat(parts) for parts in zip(*rows, strict=True))
        spare = -len(weight) % MULTIPLE
        self.down = fixed(F.pad(weight, (0, 0, 0, spare)), F.pad(bias, (0, spare)))

    @property
    def stands_in(self) -> bool:
        """Whether it has a stand-in, so that `stood_in` takes the place of `added`."""
        return self.width > self.units

    def hidden(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, d) before the activation, and (B, N) float32, the router's logits, where one product gives both.

        With a stand-in of rank r (B, N, d + r + 1).
        """
        if self.router is None or x.dtype != torch.float32 or torch.is_autocast_enabled(x.device.type):
            with at_hand(self.down):
                return F.linear(x, self.down.weight[: self.width], self.down.bias[: self.width]), None
        both = self.down(x)
        return both[..., : self.width], both[..., self.width]

    def scores(self, patches: Tensor) -> Tensor:
        """(B, P) float32, the router's logits of patch tokens (B, P, C), in a product of their own."""
        assert self.router is not None
        return linear_scores(self.router, patches)

    def added(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x + Adapter(x), (B, N, C), in a tensor of its own; (B, N) float32 logits as of `hidden`."""
        hidden, logits = self.hidden(x)
        return add_linear(x, self.activation(hidden), self.up), logits

    def stood_in(self, x: Tensor, hidden: Tensor, route: Route) -> Tensor:
        """x + Adapter(x) + (1 - M) * StandIn(x), (B, N, C), in a tensor of its own, for `hidden` of x."""
        rest = 1 - route.mask(hidden.dtype)
        units = torch.cat([self.activation(hidden[..., : self.units]), hidden[..., self.units :] * rest], -1)
        return add_linear(x, units, self.up)

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
