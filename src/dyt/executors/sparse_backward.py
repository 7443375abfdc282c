"""`sparse_backward`: every token forward, only active tokens backward. For training: `masked` at less cost."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dyt.core.execution import Executor, Mixing, Pointwise
from dyt.core.route import Route
from dyt.executors.masked import Masked
from dyt.executors.sparse import filled
from dyt.registry import executors


@executors("sparse_backward")
class SparseBackward(Executor):
    """The value and every gradient of `masked` for a pointwise branch, without backward work at inactive tokens.

    In M * Branch(X) the gradient of an inactive token's branch is multiplied by its 0; only the straight-through gate
    asks for that branch's output. So inactive tokens go through the branch without a graph: no gradient work, and
    nothing but their outputs is kept for the backward pass. Mixing branches are as in `masked`.

    Which tokens are active is read on the host, once a branch; not for torch.compile with `fullgraph`.
    """

    regroups: ClassVar[bool] = True
    reads_modules: ClassVar[bool] = False

    def __init__(self) -> None:
        self.masked = Masked()

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        if route.dense:
            return fn(x)
        x_TC, active_T = x.reshape(-1, x.shape[-1]), route.active.reshape(-1)
        total = len(active_T)
        active_K = active_T.nonzero().squeeze(-1)
        rows_R = filled(active_K, total)
        out_RC = fn(x_TC.index_select(0, rows_R).unsqueeze(0)).squeeze(0)
        if route.gate is None or not torch.is_grad_enabled():
            zeros_TC = torch.zeros(total, out_RC.shape[-1], dtype=out_RC.dtype, device=out_RC.device)
            out_TC = zeros_TC.index_copy(0, active_K, out_RC[: len(active_K)])
        else:
            inactive_L = (~active_T).nonzero().squeeze(-1)
            with torch.no_grad():
                unused_SC = fn(x_TC.detach().index_select(0, filled(inactive_L, total)).unsqueeze(0)).squeeze(0)
            gate_T = route.gate.reshape(-1)
            out_TC = _Gated.apply(out_RC, unused_SC, gate_T, rows_R, len(active_K), inactive_L)
        return out_TC.reshape(*x.shape[:-1], out_RC.shape[-1])

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        return self.masked.mixing(fn, x, route)


class _Gated(torch.autograd.Function):
    """(T, C): row `index[i]` is rows[i], of gate 1; row `others[i]` is 0, of gate 0 times unused[i].

    The first `count` of `index` and all of `others` are positions; what else `index`, rows and unused have is dropped,
    and has no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, unused: Tensor, gate: Tensor, index: Tensor, count: int, others: Tensor
    ) -> Tensor:
        ctx.save_for_backward(rows, unused, index, others)
        ctx.gate, ctx.count = gate.dtype, count
        out = torch.zeros(gate.shape[0], rows.shape[-1], dtype=rows.dtype, device=rows.device)
        return out.index_copy_(0, index[:count], rows[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None, None, None]:
        rows, unused, index, others = ctx.saved_tensors
        count = ctx.count
        kept = grad.index_select(0, index)  # the gate is 1 there
        gate = torch.empty(grad.shape[0], dtype=ctx.gate, device=grad.device)
        gate.index_copy_(0, index[:count], torch.linalg.vecdot(kept, rows)[:count].to(ctx.gate))
        left = torch.linalg.vecdot(grad.index_select(0, filled(others, len(gate))), unused)
        gate.index_copy_(0, others, left[: len(others)].to(ctx.gate))
        kept[count:] = 0
        return kept, None, gate, None, None, None
