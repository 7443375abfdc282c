"""`sparse`: only active tokens go through the branch. Gathers, computes, scatters; the default at inference."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dyt.core.execution import Executor, Mixing, Pointwise, ResidualBranch
from dyt.core.route import Route, Tokens
from dyt.executors.rows import filled, rounded
from dyt.registry import executors


@executors("sparse")
class Sparse(Executor):
    """Packed rows for pointwise branches; rows padded to the longest image of the batch for mixing ones.

    Where a route has a gate, active tokens carry its gradient; inactive tokens are not computed and so give the router
    none. Fine-tuning therefore uses `masked`.

    Args:
        exact: as many rows as there are active tokens, or as the longest image has, and not their rounded number
            (`dyt.executors.rows`): for counting the work of the tokens. Batch after batch it takes more and more
            memory.
    """

    regroups: ClassVar[bool] = True
    untraceable: ClassVar[frozenset[str]] = frozenset({"mixing"})

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        if route.dense:
            return fn(x)
        flat = x.reshape(-1, x.shape[-1])
        index, given = self._chosen(route)
        rows = fn(flat.index_select(0, given).unsqueeze(0)).squeeze(0)
        if route.gate is not None:
            rows = rows * route.mask(rows.dtype).reshape(-1, 1).index_select(0, given)
        out = torch.zeros(flat.shape[0], rows.shape[-1], dtype=rows.dtype, device=rows.device)
        return out.index_copy(0, index, _first(rows, index, given)).reshape(*x.shape[:-1], rows.shape[-1])

    def onto(self, branch: ResidualBranch, x: Tensor, route: Route, out: Tensor) -> Tensor:
        """Gathers the active rows of both, adds the branch, and writes them back: no row twice, so no atomics."""
        if route.dense or route.gate is not None:
            return super().onto(branch, x, route, out)
        index, given = self._chosen(route)
        into = out.reshape(-1, out.shape[-1])
        rows = branch.onto(x.reshape(-1, x.shape[-1]).index_select(0, given), into.index_select(0, given))
        return into.index_copy_(0, index, _first(rows, index, given)).reshape(out.shape)

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        if route.dense:
            return fn(x, Tokens())
        batch, count = route.active.shape
        lengths = route.active.sum(1)
        least, most = torch.stack(lengths.aminmax()).tolist() if batch else (0, 0)
        if most == 0:
            return x.new_zeros(x.shape)
        longest = most if self.exact else rounded(most, count)
        # A stable sort brings each image's active tokens to the front in their order; the rest of a short row is
        # padding.
        index = route.active.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
        valid = torch.arange(longest, device=x.device) < lengths[:, None]
        ragged = None if least == longest else valid
        rows = fn(x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])), Tokens(index, ragged))
        # Padding rows were gathered from inactive positions, so that multiplying by the gathered mask zeroes them.
        rows = rows * route.mask(rows.dtype).gather(1, index[..., None])
        out = torch.zeros(batch, count, rows.shape[-1], dtype=rows.dtype, device=rows.device)
        return out.scatter(1, index[..., None].expand_as(rows), rows)

    def _chosen(self, route: Route) -> tuple[Tensor, Tensor]:
        """(K,) int64, where the active ones of all tokens are; and what is computed, which begins with those."""
        index = route.active.reshape(-1).nonzero().squeeze(-1)
        return index, index if self.exact else filled(index, route.active.numel())


def _first(rows: Tensor, index: Tensor, given: Tensor) -> Tensor:
    """The rows that are written: those of `index`. In a traced graph numbers are symbols, and cannot be compared."""
    return rows if given is index else rows[: len(index)]
