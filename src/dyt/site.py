"""Site: one dispatched branch of one block. Forced masks, thresholds, checkpoints and statistics all address sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from dyt import steer
from dyt.adapters.base import Adapter
from dyt.dispatchers.base import Dispatcher, Moment
from dyt.errors import DyTError, UnsupportedError
from dyt.executors.base import Executor, Mixing, Pointwise, Room
from dyt.route import Route


class Site(nn.Module):
    """A dispatcher, an adapter and a threshold, at one branch of one block.

    Args:
        index: position among the model's sites, in forward order.
        name: `blocks.3.mlp`; stored keys are `sites.<name>.adapter.down.weight` and so on.
        prefix: number of prefix tokens.
        key: the identity of the model, for steering.
        executors: (in train mode, in eval mode) when the steering names none.
        rate: the activation rate that is asked of it, where the objective tells rates per layer.
        raster: the order of its patch tokens, as `Route.raster`.
        room: how many of its tokens executors with static shapes make room for; None for all.
    """

    threshold: Tensor

    def __init__(
        self,
        index: int,
        name: str,
        dispatcher: Dispatcher,
        adapter: Adapter,
        prefix: int,
        key: steer.Key,
        executors: tuple[Executor, Executor],
        rate: float = 1.0,
        raster: Tensor | None = None,
        room: Room | None = None,
    ) -> None:
        super().__init__()
        self.index, self.name, self.prefix, self.key = index, name, prefix, key
        self.dispatcher, self.adapter = dispatcher, adapter
        self.executors, self.rate, self.raster, self.room = executors, rate, raster, room
        self.register_buffer("threshold", torch.zeros(()))

    def extra_repr(self) -> str:
        return self.name

    def route(
        self,
        x: Tensor,
        padding: Tensor | None = None,
        attention: Callable[[], Tensor] | None = None,
        dropped: Tensor | None = None,
    ) -> Route:
        """Decides for the tokens x (B, N, C) that enter the branch, as steered at present, and records the route.

        `attention` computes the class token's attention (B, P), for dispatchers that need it. `dropped` (B, N) bool is
        True at tokens that a reducer has dropped and that hold their place in fine-tuning: as padding, they are never
        active and not counted; but where every token is active they are computed as the others.

        Raises:
            DyTError: a forced mask that does not fit the batch.
        """
        steering = steer.current(self.key)
        if steering.probe:
            active = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if padding is None else ~padding
            gate = active.float().requires_grad_()
            route = Route(active, self.prefix, gate, padding, site=self.name)
        elif steering.complete:
            route = Route.all(x, self.prefix, padding, self.name)
        elif steering.masks is not None:
            hidden = _either(padding, dropped)
            route = Route(self._forced(steering.masks, x, hidden), self.prefix, padding=hidden, site=self.name)
        else:
            route = self._decided(x, padding, steering.progress, attention, dropped)
        if steering.keep_tokens:
            route = replace(route, entered=x)
        if self.raster is not None:
            route = replace(route, raster=self.raster)
        for record in steering.records:
            record.append(route)
        return route

    def _decided(
        self,
        x: Tensor,
        padding: Tensor | None,
        progress: float,
        attention: Callable[[], Tensor] | None,
        dropped: Tensor | None,
    ) -> Route:
        patches = x[:, self.prefix :]
        either = _either(padding, dropped)
        hidden = None if either is None else either[:, self.prefix :]
        decision = self.dispatcher(patches, Moment(self.training, progress, self.threshold, hidden, attention))
        if decision.dense:
            return Route.all(x, self.prefix, padding, self.name)
        padding = either
        head = x.shape[0], self.prefix
        active = torch.cat([decision.active.new_ones(head), decision.active], 1)
        gate = None if decision.gate is None else torch.cat([decision.gate.new_ones(head), decision.gate], 1)
        if padding is not None:
            active = active & ~padding
            gate = None if gate is None else gate * ~padding
        logits = None if decision.logits is None else decision.logits.detach()
        return Route(active, self.prefix, gate, padding, logits, site=self.name)

    def _forced(self, masks: tuple[Tensor, ...], x: Tensor, padding: Tensor | None) -> Tensor:
        mask = masks[self.index].to(x.device)
        if mask.shape != x.shape[:2]:
            given, wanted = tuple(mask.shape), tuple(x.shape[:2])
            raise DyTError(
                f"forced mask of site {self.name} has shape {given}, its tokens {wanted} (images, tokens with prefix)"
            )
        return mask if padding is None else mask & ~padding

    def executor(self, stochastic: bool) -> Executor:
        """The executor of the present steering; `stochastic` says whether the branch draws drop path or dropout.

        Raises:
            UnsupportedError: an executor that regroups tokens, in train mode, for a stochastic branch.
        """
        chosen = steer.current(self.key).executor or self.executors[0 if self.training else 1]
        if chosen.regroups and self.training and stochastic:
            raise UnsupportedError(
                f"executor '{type(chosen).__name__.lower()}' in train mode at site {self.name}: its branch has drop "
                f"path or dropout above 0, which would be drawn for other groups of tokens; use 'masked' or eval mode"
            )
        return chosen.at(self.room)

    def pointwise(
        self, fn: Pointwise, x: Tensor, route: Route, stochastic: bool = False, norm: Pointwise | None = None
    ) -> Tensor:
        """M * fn(X) + Adapter(X), (B, N, C), for a branch that treats tokens independently.

        `norm` is the branch's own, for adapters that read normalised tokens. A sequential adapter reads X + M * fn(X).
        """
        return self._adapted(self.executor(stochastic).pointwise(fn, x, route), x, route, norm)

    def mixing(
        self, fn: Mixing, x: Tensor, route: Route, stochastic: bool = False, norm: Pointwise | None = None
    ) -> Tensor:
        """M * fn(X) + Adapter(X), (B, N, C), for a branch in which only active tokens see one another."""
        return self._adapted(self.executor(stochastic).mixing(fn, x, route), x, route, norm)

    def _adapted(self, out: Tensor, x: Tensor, route: Route, norm: Pointwise | None) -> Tensor:
        seen = x + out if self.adapter.placement == "sequential" else x
        if self.adapter.input == "normalised":
            assert norm is not None, "refused when the model was built"
            seen = norm(seen)
        delta = self.adapter(seen, route.padding)
        return out if delta is None else out + delta


def _either(padding: Tensor | None, dropped: Tensor | None) -> Tensor | None:
    return dropped if padding is None else padding if dropped is None else padding | dropped
