"""`sparse_backward`: every token forward, only active tokens backward. For training: `masked` at less cost."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dyt.executors.base import Executor, Mixing, Pointwise
from dyt.executors.masked import Masked
from dyt.registry import executors
from dyt.route import Route


@executors("sparse_backward")
class SparseBackward(Executor):
    """The value and every gradient of `masked` for a pointwise branch, without backward work at inactive tokens.

    In M * Branch(X) the gradient of an inactive token's branch is multiplied by its 0; only the straight-through gate
    asks for that branch's output. So inactive tokens go through the branch without a graph: no gradient work, and
    nothing but their outputs is kept for the backward pass. Mixing branches are as in `masked`.

    Which tokens are active is read on the host, once a branch; not for torch.compile with `fullgraph`.
    """

    regroups: ClassVar[bool] = True

    def __init__(self) -> None:
        self.masked = Masked()

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        if route.dense:
            return fn(x)
        flat, active = x.reshape(-1, x.shape[-1]), route.active.reshape(-1)
        index = active.nonzero().squeeze(-1)
        rows = fn(flat.index_select(0, index).unsqueeze(0)).squeeze(0)
        if route.gate is None or not torch.is_grad_enabled():
            zeros = torch.zeros(flat.shape[0], rows.shape[-1], dtype=rows.dtype, device=rows.device)
            return zeros.index_copy(0, index, rows).reshape(*x.shape[:-1], rows.shape[-1])
        others = (~active).nonzero().squeeze(-1)
        with torch.no_grad():
            unused = fn(flat.detach().index_select(0, others).unsqueeze(0)).squeeze(0)
        out: Tensor = _Gated.apply(rows, unused, route.gate.reshape(-1), index, others)
        return out.reshape(*x.shape[:-1], rows.shape[-1])

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        return self.masked.mixing(fn, x, route)


class _Gated(torch.autograd.Function):
    """(T, C): row `index[i]` is rows[i], of gate 1; row `others[i]` is 0, of gate 0 times unused[i]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, unused: Tensor, gate: Tensor, index: Tensor, others: Tensor) -> Tensor:
        ctx.save_for_backward(rows, unused, index, others)
        ctx.gate = gate.dtype
        out = torch.zeros(gate.shape[0], rows.shape[-1], dtype=rows.dtype, device=rows.device)
        return out.index_copy_(0, index, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None, None]:
        rows, unused, index, others = ctx.saved_tensors
        kept = grad.index_select(0, index)  # the gate is 1 there
        gate = torch.empty(grad.shape[0], dtype=ctx.gate, device=grad.device)
        gate.index_copy_(0, index, torch.linalg.vecdot(kept, rows).to(ctx.gate))
        gate.index_copy_(0, others, torch.linalg.vecdot(grad.index_select(0, others), unused).to(ctx.gate))
        return kept, None, gate, None, None
