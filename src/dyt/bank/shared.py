"""What stands in a site of a bank: the dispatchers and the adapters of all tasks, each for the images of its task.

Which images are of which task the forward context says, so that threads never disturb one another, and torch.compile
follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from dyt.adapters.base import Adapter
from dyt.bank.stack import Index, Stack
from dyt.core import context
from dyt.core.context import DecisionContext, ModelKey
from dyt.core.scores import by_place
from dyt.dispatchers.base import Decision, Dispatcher
from dyt.errors import DyTError
from dyt.model.site import Site


@dataclass(frozen=True, eq=False)
class Group:
    """Images of a batch that one part of each site computes: a task's own, or a stack of tasks.

    Attributes:
        part: the part's key in each site, and that of its classifier.
        rows: (G,) int64, which images; None for all of them.
        index: of a stack, which row of it each image's task has.
    """

    part: str
    rows: Tensor | None
    index: Index = None

    def of(self, values: Tensor) -> Tensor:
        """The rows (G, ...) of values (B, ...)."""
        return values if self.rows is None else values.index_select(0, self.rows)


def current(key: ModelKey) -> tuple[Group, ...]:
    """The groups of the present forward.

    Raises:
        DyTError: the bank's model is run by itself.
    """
    groups = context.current(key).groups
    if not groups:
        raise DyTError("a bank's model does not know which task an image is of; call the bank: bank(images, tasks)")
    return groups


class TaskPart(nn.Module):
    """One task's part of one site: its dispatcher, its adapter and its threshold, as they were trained."""

    threshold: Tensor

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.dispatcher, self.adapter = site.dispatcher, site.adapter
        self.register_buffer("threshold", site.threshold.detach().clone())

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moves, and casts all but the threshold, as a site does."""
        threshold = self.threshold
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.threshold = threshold.to(self.threshold.device)
        return self

    def decided(self, patches: Tensor, context: DecisionContext, index: Index = None) -> Decision:
        """Its dispatcher's decision for patch tokens (G, P, C), by its own threshold."""
        threshold = self.threshold.float()
        if self.dispatcher.level == "token":
            threshold = by_place(threshold, patches.shape[1])
        decision: Decision = self.dispatcher(patches, replace(context, threshold=threshold))
        return decision

    def delta(self, x: Tensor, padding: Tensor | None, index: Index = None) -> Tensor | None:
        """Its adapter's delta (G, N, C) of tokens x (G, N, C)."""
        delta: Tensor | None = self.adapter(x, padding)
        return delta


class TaskDispatchers(Dispatcher):
    """Each image's decision is that of its task's dispatcher.

    Args:
        parts: by `Group.part`; those of the site's adapters, so that what is added later is known here.
        key: the identity of the bank's model.
    """

    def __init__(self, parts: nn.ModuleDict, key: ModelKey) -> None:
        nn.Module.__init__(self)
        self.level, self.key = "token", key
        self._parts = (parts,)  # in a tuple: they are the adapter's children

    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        groups, parts = current(self.key), self._parts[0]
        found = [(group, _decided(parts[group.part], group, tokens, context)) for group in groups]
        if groups[0].rows is None:
            return found[0][1]
        if all(decision.dense for _, decision in found):
            return Decision(torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), dense=True)
        active = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        for group, decision in found:
            active[group.rows] = decision.active
        return Decision(active)


def _decided(part: nn.Module, group: Group, tokens: Tensor, context: DecisionContext) -> Decision:
    assert isinstance(part, (TaskPart, Stack))
    own = replace(
        context,
        padding=None if context.padding is None else group.of(context.padding),
        attention=_rows(context.attention, group),
        scores=None,
    )
    return part.decided(group.of(tokens), own, group.index)


def _rows(attention: Callable[[], Tensor] | None, group: Group) -> Callable[[], Tensor] | None:
    return None if attention is None else lambda: group.of(attention())


class TaskAdapters(Adapter):
    """Each image's delta is that of its task's adapter.

    Args:
        parts: by `Group.part`.
        like: an adapter whose placement and input all of them have.
        key: the identity of the bank's model.
    """

    def __init__(self, parts: nn.ModuleDict, like: Adapter, key: ModelKey) -> None:
        nn.Module.__init__(self)
        self.placement, self.input, self.parts, self.key = like.placement, like.input, parts, key

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor | None:
        groups, deltas = current(self.key), []
        for group in groups:
            part = self.parts[group.part]
            assert isinstance(part, (TaskPart, Stack))
            delta = part.delta(group.of(x), None if padding is None else group.of(padding), group.index)
            if delta is not None:
                deltas.append((group, delta))
        if not deltas:
            return None
        if groups[0].rows is None:
            only: Tensor = deltas[0][1]
            return only
        out = torch.zeros_like(x)
        for group, delta in deltas:
            out[group.rows] = delta.to(out.dtype)
        return out
