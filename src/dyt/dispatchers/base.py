"""What every dispatcher is: a small module that decides which patch tokens of a branch are active.

Shapes: patches (B, P, C), prefix tokens already taken off; decisions (B, P), or (B, 1) at sample level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dyt.config.base import ComponentSpec
from dyt.config.schedules import Rate
from dyt.core.context import BuildContext, DecisionContext
from dyt.core.draws import share
from dyt.core.route import mean_token
from dyt.registry import dispatchers


class DispatcherSpec(ComponentSpec):
    """Fields that every dispatcher has."""

    over_training: ClassVar[tuple[str, ...]] = ()
    """The fields that may be schedules, read at the training's progress."""

    type: str
    level: Literal["token", "sample"] = "token"
    """What is decided on. `token`: each patch token by itself; `sample`: all patch tokens of an image at once, from
    their mean (paper, table 7)."""


class RatedSpec(DispatcherSpec):
    """Fields of a dispatcher that keeps a rate by construction."""

    rate: Rate | None = None
    """Share of the patch tokens that is active. Null takes `objective.rate`."""


@dataclass(frozen=True, eq=False)
class Decision:
    """Who is active.

    Attributes:
        active: (B, P) bool, or (B, 1) at sample level.
        gate: float32 of that shape, equal to `active`, with the straight-through gradient; None when there is none.
        logits: float32 of that shape, before noise and threshold, when `active` follows from them and the context's
            threshold; None when no threshold was applied.
        dense: True when every token is active whatever the input.
    """

    active: Tensor
    gate: Tensor | None = None
    logits: Tensor | None = None
    dense: bool = False


class Dispatcher(nn.Module, ABC):
    """Base of dispatchers: subclass, set `Spec`, implement `decide`, register with `@dyt.registry.dispatchers(name)`.

    Args:
        spec: the component's own spec.
        context: where it stands.
    """

    Spec: ClassVar[type[DispatcherSpec]] = DispatcherSpec
    needs_attention: ClassVar[bool] = False
    """Whether `decide` asks its context for the class token's attention; refused on backbones that cannot tell it."""
    skips: ClassVar[bool] = True
    """Whether it ever leaves a token inactive; a stand-in is refused beside one that does not."""
    draws_at_inference: ClassVar[bool] = False
    """Whether `decide` draws random numbers at inference too, so that an image is not always routed alike (law 4)."""

    def __init__(self, spec: DispatcherSpec, context: BuildContext) -> None:
        super().__init__()
        self.level = spec.level

    @abstractmethod
    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        """Decides for tokens (B, P, C), or (B, 1, C) at sample level."""

    def forward(self, patches: Tensor, context: DecisionContext) -> Decision:
        """Decides for the patch tokens (B, P, C); at sample level from their mean, for all of an image alike."""
        if self.level == "token":
            return self.decide(patches, context)
        decision = self.decide(mean_token(patches, context.padding), context)
        size = patches.shape[:2]
        spread = [None if t is None else t.expand(size) for t in (decision.active, decision.gate, decision.logits)]
        assert spread[0] is not None
        return Decision(spread[0], spread[1], spread[2], decision.dense)


def bernoulli(tokens: Tensor, rate: float) -> Tensor:
    """(B, P) bool, each True with probability `rate`, for tokens (B, P, C)."""
    return share(lambda shape: torch.rand(tuple(shape), device=tokens.device), tokens.shape[:2]) < rate


dispatchers.accepts(Dispatcher, ComponentSpec)
