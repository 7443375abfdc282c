"""The paper's inference as one would write it down: gather, compute, fill with zeros, scatter."""

from __future__ import annotations

import torch
from torch import Tensor

from dyt.core.execution import Executor, Mixing, Pointwise
from dyt.core.route import Route
from dyt.errors import UnsupportedError


class PlainGather(Executor):
    """Boolean indexing in and out of a tensor of zeros (paper fig. 2b); for pointwise branches.

    Not registered: it is no way to run a model, but what the executors have to be faster than.
    """

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        rows = fn(x[route.active].unsqueeze(0)).squeeze(0)
        out = torch.zeros_like(x)
        out[route.active] = rows
        return out

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        raise UnsupportedError("the plain rendering of the paper's inference is for variant mlp, the paper's own")
