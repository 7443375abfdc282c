"""Site: one dispatched branch of one block. Forced masks, thresholds, checkpoints and statistics all address sites."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from dyt.adapters.base import Adapter
from dyt.core import context
from dyt.core.breakeven import BreakEven
from dyt.core.context import DecisionContext
from dyt.core.execution import Executor, Pointwise, ResidualBranch, TokenCapacity
from dyt.core.route import Route, told
from dyt.core.scores import by_place
from dyt.dispatchers.base import Decision, Dispatcher
from dyt.errors import DyTError, UnsupportedError


class Site(nn.Module):
    """A dispatcher, an adapter and a threshold, at one branch of one block.

    Args:
        index: position among the model's sites, in forward order.
        name: `blocks.3.mlp`; stored keys are `sites.<name>.adapter.down.weight` and so on.
        prefix: number of prefix tokens.
        key: the identity of the model, for forward contexts.
        executors: (in train mode, in eval mode) when the forward context names none.
        rate: the activation rate that is asked of it, where the objective tells rates per layer.
        raster: the order of its patch tokens, as `Route.raster`.
        capacity: how many of its tokens executors with static shapes make room for; None for all.
        stand_in: what takes the branch's place at inactive tokens; None for nothing.

    Attributes:
        break_even: from which activity on eval mode computes every token and masks; None (always skip) unless
            calibrated. An executor that the forward context names is used whatever it says.
        fixed_route: whether a rewrite left nothing to decide and nothing to skip.
        threshold: () float32, also of a model in half precision. At token level ties are broken by place where it is
            not 0 (`dyt.core.scores`).
    """

    threshold: Tensor
    break_even: BreakEven | None

    def __init__(
        self,
        index: int,
        name: str,
        dispatcher: Dispatcher,
        adapter: Adapter,
        prefix: int,
        key: context.ModelKey,
        executors: tuple[Executor, Executor],
        rate: float = 1.0,
        raster: Tensor | None = None,
        capacity: TokenCapacity | None = None,
        stand_in: Adapter | None = None,
    ) -> None:
        super().__init__()
        self.index, self.name, self.prefix, self.key = index, name, prefix, key
        self.dispatcher, self.adapter, self.stand_in = dispatcher, adapter, stand_in
        self.executors, self.rate, self.raster, self.capacity = executors, rate, raster, capacity
        self.break_even, self.fixed_route = None, False
        self.register_buffer("threshold", torch.zeros(()))

    @property
    def settled(self) -> bool:
        """The old name of `fixed_route`."""
        warnings.warn(
            "Site.settled is Site.fixed_route now; the old name goes away in the next minor version",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.fixed_route

    def extra_repr(self) -> str:
        return self.name

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moves, and casts all but the threshold, which stays float32: in bfloat16 it would miss the rate."""
        threshold = self.threshold
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.threshold.dtype != threshold.dtype:
            self.threshold = threshold.to(self.threshold.device)
        return self

    def forward(
        self,
        x: Tensor,
        padding: Tensor | None = None,
        attention: Callable[[], Tensor] | None = None,
        dropped: Tensor | None = None,
        scores: Callable[[], Tensor] | None = None,
    ) -> Route:
        """Decides for the tokens x (B, N, C) that enter the branch, as the forward context says, and records the route.

        `attention` computes the class token's attention (B, P), for dispatchers that need it. `dropped` (B, N) bool is
        True at tokens that a reducer has dropped and that hold their place in fine-tuning: as padding, they are never
        active and not counted; but where every token is active they are computed as the others. `scores` computes the
        patch tokens' logits (B, P), for a rewrite's dispatcher that has them of another product.

        Raises:
            DyTError: a forced mask that does not fit the batch.
        """
        now = context.current(self.key)
        hidden = dropped if padding is None else padding if dropped is None else padding | dropped
        if now.probe:
            active = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if padding is None else ~padding
            gate = active.float().requires_grad_()
            route = Route(active, self.prefix, gate, padding, site=self.name)
        elif now.complete:
            route = Route.all(x, self.prefix, padding, self.name)
        elif now.masks is not None:
            route = Route(self._forced(now.masks, x, hidden), self.prefix, padding=hidden, site=self.name)
        else:
            route = self._decided(x, padding, hidden, now, attention, scores)
            if now.told != 1 and route.gate is not None:
                route = told(route, now.told)
        return self._recorded(route, x, now)

    def prefix_route(self, x: Tensor) -> Route:
        """The route, recorded, of a branch that is computed for the prefix tokens of x (B, N, C) alone, in any context.

        Raises:
            DyTError: a forced mask that does not fit the batch; of one that fits the patches are left out.
        """
        now = context.current(self.key)
        if now.masks is not None:
            self._forced(now.masks, x, None)
        active = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        active[:, : self.prefix] = True
        return self._recorded(Route(active, self.prefix, site=self.name), x, now)

    def _recorded(self, route: Route, x: Tensor, now: context.ForwardContext) -> Route:
        if now.keep_tokens:
            route = replace(route, entered=x)
        if self.raster is not None:
            route = replace(route, raster=self.raster)
        for record in now.records:
            record.append(route)
        return route

    def _decided(
        self,
        x: Tensor,
        padding: Tensor | None,
        hidden: Tensor | None,
        now: context.ForwardContext,
        attention: Callable[[], Tensor] | None,
        scores: Callable[[], Tensor] | None,
    ) -> Route:
        """The dispatcher's route; `hidden` (B, N) is padding and what a reducer has dropped."""
        x_BPC = x[:, self.prefix :]
        hidden_BP = None if hidden is None else hidden[:, self.prefix :]
        threshold = self.threshold if now.thresholds is None else self._given(now.thresholds, x)
        if self.dispatcher.level == "token":  # at sample level an image's tokens are one decision, which has no place
            threshold = by_place(threshold, x_BPC.shape[1])
        decision: Decision = self.dispatcher(
            x_BPC, DecisionContext(self.training, now.progress, threshold, hidden_BP, attention, scores)
        )
        if decision.dense:
            return Route.all(x, self.prefix, padding, self.name)
        prefix_shape = x.shape[0], self.prefix
        active = torch.cat([decision.active.new_ones(prefix_shape), decision.active], 1)
        gate = decision.gate
        if gate is not None:
            gate = torch.cat([gate.new_ones(prefix_shape), gate], 1)
        if hidden is not None:
            active = active & ~hidden
            gate = None if gate is None else gate * ~hidden
        logits = None if decision.logits is None else decision.logits.detach()
        return Route(active, self.prefix, gate, hidden, logits, site=self.name)

    def _given(self, thresholds: tuple[Tensor, ...], x: Tensor) -> Tensor:
        """(B, 1) float32, each image's own threshold, or () for all."""
        threshold = thresholds[self.index].to(x.device)
        if threshold.ndim and len(threshold) != len(x):
            raise DyTError(
                f"budgets: rates of {len(threshold)} images were given, and site {self.name} is given {len(x)}; give "
                f"one rate for each image of the batch, or one for all"
            )
        return threshold

    def _forced(self, masks: tuple[Tensor, ...], x: Tensor, padding: Tensor | None) -> Tensor:
        mask = masks[self.index].to(x.device)
        if mask.shape != x.shape[:2]:
            given, wanted = tuple(mask.shape), tuple(x.shape[:2])
            raise DyTError(
                f"forced mask of site {self.name} has shape {given}, its tokens {wanted} (images, tokens with prefix)"
            )
        return mask if padding is None else mask & ~padding

    def executor(self, route: Route, stochastic: Callable[[], bool] = bool) -> Executor:
        """The executor of the present forward context for this route, or else the mode's, as the break-even says.

        `stochastic` tells whether the branch draws drop path or dropout.

        Raises:
            UnsupportedError: an executor that regroups tokens, in train mode, for a stochastic branch.
        """
        executor = context.current(self.key).executor
        if executor is None:
            computes_all, skips = self.executors
            dense = self.training or (self.break_even is not None and self.break_even.prefers_dense(route))
            executor = computes_all if dense else skips
        if executor.regroups and self.training and stochastic():
            raise UnsupportedError(
                f"executor '{type(executor).__name__.lower()}' in train mode at site {self.name}: its branch has drop "
                f"path or dropout above 0, which would be drawn for other groups of tokens; use 'masked' or eval mode"
            )
        return executor if self.capacity is None else executor.at(self.capacity)

    def onto(self, branch: ResidualBranch, x: Tensor, route: Route, out: Tensor) -> Tensor:
        """out + M * branch(X), (B, N, C), the adapter left to the caller; `out` may be overwritten."""
        return self.executor(route).onto(branch, x, route, out)

    def adapted(self, out: Tensor, x: Tensor, route: Route, norm: Pointwise) -> Tensor:
        """out + (1 - M) * StandIn(X) + Adapter(X), (B, N, C), for out = M * Branch(X) (paper eq. 2).

        `norm` is the branch's own, for adapters that read normalised tokens. A sequential adapter reads X + out.
        """
        if context.current(self.key).plain:
            return out
        out = self.stood_in(out, x, route, norm)
        seen = x + out if self.adapter.placement == "sequential" else x
        delta = self.adapter(norm(seen) if self.adapter.input == "normalised" else seen, route.padding)
        return out if delta is None else out + delta

    def stood_in(self, out: Tensor, x: Tensor, route: Route, norm: Pointwise) -> Tensor:
        """out + (1 - M) * StandIn(X), (B, N, C); nothing is computed where every token is known to be active."""
        if self.stand_in is None or route.dense:
            return out
        delta = self.stand_in(norm(x) if self.stand_in.input == "normalised" else x, route.padding)
        return out if delta is None else out + (1 - route.mask(delta.dtype)) * delta
