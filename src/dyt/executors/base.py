"""What every executor is: a way of computing a branch for the active tokens only.

`masked` is the readable reference and the training path; every other executor must equal it for any mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

from torch import Tensor

from dyt.registry import executors
from dyt.route import Route, Tokens

Pointwise = Callable[[Tensor], Tensor]
"""A branch that treats tokens independently: (B, N, C) -> (B, N, C)."""
Mixing = Callable[[Tensor, Tokens], Tensor]
"""A branch in which tokens see one another: (B, K, C) and what is known of the K tokens -> (B, K, C)."""


class ResidualBranch(Protocol):
    """A pointwise branch that can also add itself to the residual stream, in its last matrix product say."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """(..., C) -> (..., C), as `Pointwise`."""

    def onto(self, x: Tensor, out: Tensor) -> Tensor:
        """out + branch(x), both (..., C); `out` may be overwritten."""


class Executor(ABC):
    """Base of executors: two methods that return the branch's contribution (B, N, C), zero at inactive tokens.

    `regroups`: whether tokens leave their image's row, so that what a branch draws per image or per token in train mode
    (drop path, dropout) would differ from `masked`; such an executor is refused there.
    """

    regroups: ClassVar[bool] = False

    @abstractmethod
    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        """Runs a branch that treats tokens independently (an MLP) on x (B, N, C)."""

    @abstractmethod
    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        """Runs a branch in which tokens see one another (attention, a layer) on its active tokens only."""

    def onto(self, branch: ResidualBranch, x: Tensor, route: Route, out: Tensor) -> Tensor:
        """out + M * branch(X), (B, N, C); `out` may be overwritten, by an executor that writes active tokens alone."""
        return branch.onto(x, out) if route.dense else out + self.pointwise(branch, x, route)


executors.accepts(Executor)
