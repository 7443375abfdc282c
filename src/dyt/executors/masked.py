"""`masked`: every token goes through the branch and the mask multiplies its output. The reference, and for training."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from dyt.core.execution import Executor, Mixing, Pointwise
from dyt.core.route import ALL_TOKENS, Route, Tokens
from dyt.registry import executors


@executors("masked")
class Masked(Executor):
    """M * Branch(X) (paper eq. 2), with the straight-through gradient at every token, inactive ones included."""

    reads_modules: ClassVar[bool] = False

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        out = fn(x)
        return out if route.dense else out * route.mask(out.dtype)

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        if route.dense:
            return fn(x, ALL_TOKENS)
        out = fn(x, Tokens(valid=route.active))
        return out * route.mask(out.dtype)
