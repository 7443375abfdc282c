"""`sparse`: only active tokens go through the branch. Gathers, computes, scatters; the default at inference."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dyt.executors.base import Executor, Mixing, Pointwise, ResidualBranch
from dyt.registry import executors
from dyt.route import Route, Tokens


@executors("sparse")
class Sparse(Executor):
    """Packed rows for pointwise branches; rows padded to the longest image of the batch for mixing ones.

    Where a route has a gate, active tokens carry its gradient; inactive tokens are not computed and so give the router
    none. Fine-tuning therefore uses `masked`.
    """

    regroups: ClassVar[bool] = True
    untraceable: ClassVar[frozenset[str]] = frozenset({"mixing"})

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        if route.dense:
            return fn(x)
        flat = x.reshape(-1, x.shape[-1])
        index = route.active.reshape(-1).nonzero().squeeze(-1)
        rows = fn(flat.index_select(0, index).unsqueeze(0)).squeeze(0)
        if route.gate is not None:
            rows = rows * route.mask(rows.dtype).reshape(-1, 1).index_select(0, index)
        out = torch.zeros(flat.shape[0], rows.shape[-1], dtype=rows.dtype, device=rows.device)
        return out.index_copy(0, index, rows).reshape(*x.shape[:-1], rows.shape[-1])

    def onto(self, branch: ResidualBranch, x: Tensor, route: Route, out: Tensor) -> Tensor:
        """Gathers the active rows of both, adds the branch, and writes them back: no row twice, so no atomics."""
        if route.dense or route.gate is not None:
            return super().onto(branch, x, route, out)
        index = route.active.reshape(-1).nonzero().squeeze(-1)
        into = out.reshape(-1, out.shape[-1])
        rows = branch.onto(x.reshape(-1, x.shape[-1]).index_select(0, index), into.index_select(0, index))
        return into.index_copy_(0, index, rows).reshape(out.shape)

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        if route.dense:
            return fn(x, Tokens())
        batch, count = route.active.shape
        lengths = route.active.sum(1)
        longest = int(lengths.max()) if batch else 0
        if longest == 0:
            return x.new_zeros(x.shape)
        # A stable sort brings each image's active tokens to the front in their order; the rest of a short row is
        # padding.
        index = route.active.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
        valid = torch.arange(longest, device=x.device) < lengths[:, None]
        ragged = None if bool((lengths == longest).all()) else valid
        rows = fn(x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])), Tokens(index, ragged))
        # Padding rows were gathered from inactive positions, so that multiplying by the gathered mask zeroes them.
        rows = rows * route.mask(rows.dtype).gather(1, index[..., None])
        out = torch.zeros(batch, count, rows.shape[-1], dtype=rows.dtype, device=rows.device)
        return out.scatter(1, index[..., None].expand_as(rows), rows)
