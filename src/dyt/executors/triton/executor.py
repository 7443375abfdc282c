"""`triton`: which branches, tensors and devices its kernels take; it is refused for all others, never replaced."""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor

from dyt.core.execution import Executor, Mixing, MLPBranch, Pointwise
from dyt.core.route import Route
from dyt.errors import UnsupportedError
from dyt.executors.capacity import pack
from dyt.registry import executors

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CAPABILITY = (8, 0)
"""Of the oldest GPUs that have bfloat16 in their matrix units: Ampere."""


@executors("triton")
class Triton(Executor):
    """Gather and LayerNorm; fc1, bias and GELU; fc2, bias, layer scale and scatter. For inference, and MLP branches.

    Every buffer has room for all tokens and every grid is of a size that is known beforehand; the kernels read how many
    rows there are and leave the rest alone. So nothing waits for the device, and no token is without room.
    """

    regroups: ClassVar[bool] = True
    limits: ClassVar[str | None] = "MLP branches LayerNorm, Linear, GELU, Linear, on NVIDIA GPUs, without gradients"

    @classmethod
    def refusal(cls, device: torch.device) -> str | None:
        if find_spec("triton") is None:
            return "the package triton is not installed"
        if device.type == "cpu":
            from triton import knobs

            interpreted = bool(knobs.runtime.interpret)
            return None if interpreted else "it needs a GPU (or TRITON_INTERPRET=1 set before Python starts, for tests)"
        if device.type != "cuda" or torch.version.hip is not None:
            return f"it is for NVIDIA GPUs, not for '{device.type}'"
        major, minor = torch.cuda.get_device_capability(device)
        return None if (major, minor) >= CAPABILITY else f"it needs capability 8.0; this GPU has {major}.{minor}"

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        reason = self.refusal(x.device) or _refusal(fn, x)
        if reason is not None:
            raise UnsupportedError(f"executor 'triton' at site {route.site}: {reason}; use 'sparse' or 'capacity'")
        if route.dense:
            return fn(x)
        assert isinstance(fn, MLPBranch)
        from dyt.executors.triton.launch import mlp

        index, _, _ = pack(route.active.reshape(1, -1), route.active.numel())
        return mlp(x.flatten(0, 1), index[0], route.active.sum(), fn).reshape(x.shape)

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        raise UnsupportedError(
            f"executor 'triton' has kernels for MLP branches; site {route.site} is another: use 'sparse' or 'capacity'"
        )


def _refusal(fn: Pointwise, x: Tensor) -> str | None:
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
