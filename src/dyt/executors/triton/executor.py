"""`triton`: which branches, tensors and devices its kernels take; it is refused for all others, never replaced."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from dyt.core.execution import Executor, Mixing, MLPBranch, Pointwise, ResidualBranch, TokenCapacity
from dyt.core.route import Route
from dyt.errors import UnsupportedError
from dyt.executors.triton.operators import mlp_onto, refusal
from dyt.registry import executors

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@executors("triton")
class Triton(Executor):
    """Compaction, gather and LayerNorm; fc1, bias and GELU; fc2, bias, layer scale and scatter onto the stream.

    For inference, and MLP branches. Every buffer has room for all tokens and every grid is of a size that is known
    beforehand; the kernels read how many rows there are and leave the rest alone. So nothing waits for the device, and
    no token is without room.

    Args:
        share: of a site's tokens, how many are given to torch's own products, which are faster than these kernels and
            need the number of rows on the host; the kernels compute what is beyond. It is the site's capacity where
            that is less than all tokens (`dyt.calibrate_capacity`), else 0. The numbers do not depend on it.
    """

    regroups: ClassVar[bool] = True
    limits: ClassVar[str | None] = "MLP branches LayerNorm, Linear, GELU, Linear, on NVIDIA GPUs, without gradients"

    def __init__(self, share: float = 0.0) -> None:
        self.share = share

    def at(self, capacity: TokenCapacity) -> Executor:
        return Triton(capacity.share if capacity.share < 1 else 0.0)

    @classmethod
    def refusal(cls, device: torch.device) -> str | None:
        return refusal(device)

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        branch = self._taken(fn, x, route)
        return fn(x) if route.dense else self._added(branch, x, route, torch.zeros_like(x))

    def onto(self, branch: ResidualBranch, x: Tensor, route: Route, out: Tensor) -> Tensor:
        """Adds in place, in the last product's own kernel; a copy of `out` where it is x."""
        mlp = self._taken(branch.parts, x, route)
        if route.dense:
            return branch.onto(x, out)
        return self._added(mlp, x, route, out.clone() if out is x else out)

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        raise UnsupportedError(
            f"executor 'triton' has kernels for MLP branches; site {route.site} is another: use 'sparse' or 'capacity'"
        )

    def _taken(self, fn: Pointwise | None, x: Tensor, route: Route) -> MLPBranch:
        # While a graph is traced the operator itself asks for the device, when it runs.
        known = None if torch.compiler.is_compiling() else refusal(x.device)
        reason = known or _refusal(fn, x)
        if reason is not None:
            raise UnsupportedError(f"executor 'triton' at site {route.site}: {reason}; use 'sparse' or 'capacity'")
        assert isinstance(fn, MLPBranch)
        return fn

    def _added(self, branch: MLPBranch, x: Tensor, route: Route, out: Tensor) -> Tensor:
        x_TC, out_TC = x.reshape(-1, x.shape[-1]).contiguous(), out.reshape(-1, out.shape[-1]).contiguous()
        norm, fc1, fc2 = branch.norm, branch.fc1, branch.fc2
        active_T = route.active.reshape(-1)
        weights = norm.weight, norm.bias, norm.eps, fc1.weight, fc1.bias, fc2.weight, fc2.bias, branch.scale
        mlp_onto(x_TC, active_T, *weights, out_TC, math.ceil(self.share * len(x_TC)))
        return out_TC.reshape(x.shape)


def _refusal(fn: Pointwise | None, x: Tensor) -> str | None:
    """Why these kernels cannot compute this branch of x; None when they can."""
    if not isinstance(fn, MLPBranch):
        return "its branch is not LayerNorm, Linear, GELU, Linear, as a plain MLP of timm's"
    if x.dtype not in DTYPES:
        return f"tokens are {x.dtype}; allowed: {', '.join(str(dtype) for dtype in DTYPES)}"
    if torch.is_autocast_enabled(x.device.type) or fn.fc1.weight.dtype != x.dtype:
        return "tokens and weights need one dtype, and no autocast; convert the model with .to(dtype)"
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in fn.parameters())):
        return "it has no gradients; use torch.no_grad(), and 'masked' for training"
    return None
