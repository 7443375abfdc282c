"""What stands in a site of a bank: dispatchers, adapters and stand-ins of all tasks, each for the images of its task.

Which images are of which task the forward context says, so that threads never disturb one another, and torch.compile
follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
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
from dyt.model.block import DynamicBlock
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

    def of_any(self, values: Tensor | None) -> Tensor | None:
        """As `of`, where there are values."""
        return None if values is None else self.of(values)


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
    """One task's part of one site: its dispatcher, adapter, stand-in and threshold, as they were trained.

    Attributes:
        stand_in_input: which tokens the stand-in reads; None where there is none.
    """

    threshold: Tensor

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.dispatcher, self.adapter, self.stand_in = site.dispatcher, site.adapter, site.stand_in
        self.stand_in_input = None if site.stand_in is None else site.stand_in.input
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

    def stood_in(self, seen: Tensor, padding: Tensor | None, index: Index = None) -> Tensor | None:
        """Its stand-in's delta (G, N, C), for tokens (G, N, C) as `stand_in_input` says."""
        assert self.stand_in is not None
        delta: Tensor | None = self.stand_in(seen, padding)
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
        found = [(group, _decided(_part(parts, group), group, tokens, context)) for group in groups]
        if groups[0].rows is None:
            return found[0][1]
        if all(decision.dense for _, decision in found):
            return Decision(torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), dense=True)
        active = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        for group, decision in found:
            active[group.rows] = decision.active
        return Decision(active)


def _decided(part: TaskPart | Stack, group: Group, tokens: Tensor, context: DecisionContext) -> Decision:
    own = replace(
        context,
        padding=group.of_any(context.padding),
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
        groups = current(self.key)
        deltas = [_part(self.parts, group).delta(group.of(x), group.of_any(padding), group.index) for group in groups]
        return _joined(groups, deltas, x)


class TaskStandIns(Adapter):
    """Each image's delta is that of its task's stand-in, and zero where its task has none; None where no task has one.

    Tasks' stand-ins may read different tokens. So it takes the branch's input as it is, and normalises it itself.

    Args:
        parts: by `Group.part`; those of the site's adapters.
        block: the block that the site is in.
        branch: the site's branch.
        key: the identity of the bank's model.
    """

    def __init__(self, parts: nn.ModuleDict, block: DynamicBlock, branch: str, key: ModelKey) -> None:
        nn.Module.__init__(self)
        self.placement, self.input, self.branch, self.key = "parallel", "block", branch, key
        self._parts, self._block = (parts,), (block,)  # in tuples: they are not its children

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor | None:
        groups = current(self.key)
        return _joined(groups, [self._delta(group, x, padding) for group in groups], x)

    def _delta(self, group: Group, x: Tensor, padding: Tensor | None) -> Tensor | None:
        part = _part(self._parts[0], group)
        if part.stand_in_input is None:
            return None
        seen = group.of(x)
        if part.stand_in_input == "normalised":
            block = self._block[0]
            seen = block.family.normalised(block, self.branch, seen)
        return part.stood_in(seen, group.of_any(padding), group.index)


def _part(parts: nn.ModuleDict, group: Group) -> TaskPart | Stack:
    part = parts[group.part]
    assert isinstance(part, (TaskPart, Stack))
    return part


def _joined(groups: Sequence[Group], deltas: Sequence[Tensor | None], x: Tensor) -> Tensor | None:
    """(B, N, C) of the groups' deltas (G, N, C), zero where a group has none; None where none has.

    Under autocast they are rounded otherwise than x, and stay so: what they are added to is then rounded as in a task's
    own model.
    """
    found = [(group, delta) for group, delta in zip(groups, deltas, strict=True) if delta is not None]
    if groups[0].rows is None or not found:
        return deltas[0]
    out = torch.zeros_like(x, dtype=reduce(torch.promote_types, [delta.dtype for _, delta in found]))
    for group, delta in found:
        out[group.rows] = delta.to(out.dtype)
    return out
