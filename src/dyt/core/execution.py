"""What every executor is: a way of computing a branch for the active tokens only.

`masked` is the readable reference and the training path; every other executor must equal it for any mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from dyt.core.route import Route, Tokens

Pointwise = Callable[[Tensor], Tensor]
"""A branch that treats tokens independently: (B, N, C) -> (B, N, C)."""
Mixing = Callable[[Tensor, Tokens], Tensor]
"""A branch in which tokens see one another: (B, K, C) and what is known of the K tokens -> (B, K, C)."""


@dataclass(frozen=True)
class TokenCapacity:
    """How many tokens of a site an executor with static shapes makes room for.

    Attributes:
        share: of the site's tokens, prefix included, above 0 and at most 1.
        overflow: what happens where more are active: `dense` (the branch is run densely) or `nan` (the images concerned
            are NaN).
    """

    share: float = 1.0
    overflow: Literal["dense", "nan"] = "dense"


@dataclass(frozen=True, eq=False)
class MLPBranch:
    """A pointwise branch of which the modules are known: scale * fc2(gelu(fc1(norm(x)))), GELU by erf, no dropout.

    For executors that compute it with kernels of their own; for all others it is a function as any.

    Attributes:
        fn: computes it, (B, N, C) -> (B, N, C).
        norm: with weight and bias.
        fc1, fc2: the two layers.
        scale: (C,), layer scale; None for none.
    """

    fn: Pointwise
    norm: nn.LayerNorm
    fc1: nn.Linear
    fc2: nn.Linear
    scale: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.fn(x)

    def parameters(self) -> list[Tensor]:
        """All that it computes with."""
        own: list[Tensor] = [p for module in (self.norm, self.fc1, self.fc2) for p in module.parameters()]
        return own if self.scale is None else [*own, self.scale]


class ResidualBranch(Protocol):
    """A pointwise branch that can also add itself to the residual stream, in its last matrix product say."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """(..., C) -> (..., C), as `Pointwise`."""

    def onto(self, x: Tensor, out: Tensor) -> Tensor:
        """out + branch(x), both (..., C); `out` may be overwritten."""

    @property
    def parts(self) -> MLPBranch | None:
        """The same as known modules, for executors with kernels of their own; None where it is another branch."""


class Executor(ABC):
    """Base of executors: two methods that return the branch's contribution (B, N, C), zero at inactive tokens.

    One that launches kernels which torch's dispatcher does not see calls `unseen` beside each.

    `regroups`: whether tokens leave their image's row, so that what a branch draws per image or per token in train mode
    (drop path, dropout) would differ from `masked`; such an executor is refused there.
    `limits`: in words, what alone it takes, where that is not every branch on every device with gradients; the laws
    then hold where it runs.
    `untraceable`: which of the two methods choose shapes by what the device says, so that torch.export and a compiler
    with `fullgraph=True` cannot follow.
    """

    regroups: ClassVar[bool] = False
    limits: ClassVar[str | None] = None
    untraceable: ClassVar[frozenset[str]] = frozenset()
    reads_modules: ClassVar[bool] = True
    """Whether it wants an MLP branch as `MLPBranch` where that can be told; False spares looking for its modules."""

    def at(self, capacity: TokenCapacity) -> Executor:
        """The executor for a site of this capacity; those with static shapes alone take notice."""
        return self

    @classmethod
    def refusal(cls, device: torch.device) -> str | None:
        """Why this executor cannot run on this device, or None when it can."""
        return None

    @abstractmethod
    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        """Runs a branch that treats tokens independently (an MLP) on x (B, N, C)."""

    @abstractmethod
    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        """Runs a branch in which tokens see one another (attention, a layer) on its active tokens only."""

    def onto(self, branch: ResidualBranch, x: Tensor, route: Route, out: Tensor) -> Tensor:
        """out + M * branch(X), (B, N, C); `out` may be overwritten, by an executor that writes active tokens alone."""
        return branch.onto(x, out) if route.dense else out + self.pointwise(branch, x, route)
