"""`sparse_backward`: no backward pass for inactive tokens, and no forward pass for those that the gate is not told of.

For training: `masked` at less cost.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dyt.core.execution import Executor, Mixing, Pointwise
from dyt.core.route import ALL_TOKENS, Route, Tokens
from dyt.executors.masked import Masked
from dyt.executors.sparse import filled, rounded
from dyt.registry import executors


@executors("sparse_backward")
class SparseBackward(Executor):
    """The value and every gradient of `masked`, without the work of inactive tokens that nothing asks for.

    In M * Branch(X) the gradient of an inactive token's branch is multiplied by its 0; only the straight-through gate
    asks for that branch's output. So an inactive token of a pointwise branch goes through it without a graph: no
    gradient work, and nothing but its output is kept for the backward pass. Where the gate is not told of it
    (`Route.told`), or there is no gate, it is not computed at all.

    Mixing branches are as in `masked` where the gate is told of every token; else the other tokens are left out.

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
            asked_T = ~active_T if route.told is None else ~active_T & (route.told.reshape(-1) > 0)
            asked_L = asked_T.nonzero().squeeze(-1)
            with torch.no_grad():
                unused_SC = fn(x_TC.detach().index_select(0, filled(asked_L, total)).unsqueeze(0)).squeeze(0)
            told_L = None if route.told is None else route.told.reshape(-1).index_select(0, asked_L)
            gate_T = route.gate.reshape(-1)
            out_TC = _Gated.apply(out_RC, unused_SC, gate_T, rows_R, len(active_K), asked_L, told_L)
        return out_TC.reshape(*x.shape[:-1], out_RC.shape[-1])

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        if route.dense:
            return fn(x, ALL_TOKENS)
        gated = route.gate is not None and torch.is_grad_enabled()
        if gated and route.told is None:
            return self.masked.mixing(fn, x, route)
        batch, count = route.active.shape
        asked_BN = route.active | (route.told > 0) if gated and route.told is not None else route.active
        least, most = torch.stack(asked_BN.sum(1).aminmax()).tolist() if batch else (0, 0)
        if most == 0:
            return x.new_zeros(x.shape)
        # A stable sort brings each image's tokens that are asked for to the front, in their order.
        index_BR = asked_BN.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : rounded(most, count)]
        alike = not gated and least == index_BR.shape[1]
        tokens = Tokens(index_BR, None if alike else route.active.gather(1, index_BR))  # active ones alone are keys
        out_BRC = fn(x.gather(1, index_BR[..., None].expand(-1, -1, x.shape[-1])), tokens)
        # The rest of a short row was gathered from tokens that nobody asks for: the mask is 0 there, with no gradient.
        mask_BR = (route.mask(out_BRC.dtype).squeeze(-1) * asked_BN).gather(1, index_BR)
        out_BRC = out_BRC * mask_BR[..., None]
        out_BNC = torch.zeros(batch, count, out_BRC.shape[-1], dtype=out_BRC.dtype, device=out_BRC.device)
        return out_BNC.scatter(1, index_BR[..., None].expand_as(out_BRC), out_BRC)


class _Gated(torch.autograd.Function):
    """(T, C): row `index[i]` is rows[i], of gate 1; row `others[i]` is 0, of gate 0 times unused[i].

    The first `count` of `index` and all of `others` are positions; what else `index`, rows and unused have is dropped,
    and has no gradient. The gate's gradient at `others` is multiplied by `told`, where that is not None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        unused: Tensor,
        gate: Tensor,
        index: Tensor,
        count: int,
        others: Tensor,
        told: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(rows, unused, index, others, told)
        ctx.gate, ctx.count = gate.dtype, count
        out = torch.zeros(gate.shape[0], rows.shape[-1], dtype=rows.dtype, device=rows.device)
        return out.index_copy_(0, index[:count], rows[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None, None, None, None]:
        rows, unused, index, others, told = ctx.saved_tensors
        count = ctx.count
        kept = grad.index_select(0, index)  # the gate is 1 there
        gate = torch.zeros(grad.shape[0], dtype=ctx.gate, device=grad.device)
        gate.index_copy_(0, index[:count], torch.linalg.vecdot(kept, rows)[:count].to(ctx.gate))
        left = torch.linalg.vecdot(grad.index_select(0, filled(others, len(gate))), unused)
        left = left[: len(others)] if told is None else left[: len(others)] * told
        gate.index_copy_(0, others, left.to(ctx.gate))
        kept[count:] = 0
        return kept, None, gate, None, None, None, None
