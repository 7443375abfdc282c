"""`sparse`: only active tokens go through the branch. Gathers, computes, scatters; the default at inference.

How many rows a product is given follows from the data, and is rounded up to one of a few numbers (`rounded`). Else
neither of two things comes to an end: a library of products caches what it made for each shape (oneDNN a primitive,
cuBLAS a heuristic's answer, autotuners a choice), and an allocator keeps the gaps that other sizes left.

Shapes: B images, N tokens, C channels; T = B N tokens of the batch, K active ones, R >= K rows that are computed.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dyt.core.execution import Executor, Mixing, Pointwise, ResidualBranch
from dyt.core.route import ALL_TOKENS, Route, Tokens
from dyt.registry import executors

STEPS = 31
"""None included there are at most STEPS + 1 = 32 numbers of rows, and on average total / 62 rows more than tokens. With
fewer numbers more rows would be wasted; with more, each would be met again less often."""


@executors("sparse")
class Sparse(Executor):
    """Packed rows for pointwise branches; rows padded to the longest image of the batch for mixing ones.

    Where a route has a gate, active tokens carry its gradient; inactive tokens are not computed and so give the router
    none. Fine-tuning therefore uses `masked`.

    Args:
        exact: computes as many rows as there are active tokens, or as the longest image has, not their rounded number:
            for counting the work of the tokens. Memory then grows batch after batch.
    """

    regroups: ClassVar[bool] = True
    reads_modules: ClassVar[bool] = False
    untraceable: ClassVar[frozenset[str]] = frozenset({"mixing"})

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        if route.dense:
            return fn(x)
        x_TC = x.reshape(-1, x.shape[-1])
        active_K, rows_R = self._rows(route)
        out_RC = fn(x_TC.index_select(0, rows_R).unsqueeze(0)).squeeze(0)
        if route.gate is not None:
            out_RC = out_RC * route.mask(out_RC.dtype).reshape(-1, 1).index_select(0, rows_R)
        out_TC = torch.zeros(x_TC.shape[0], out_RC.shape[-1], dtype=out_RC.dtype, device=out_RC.device)
        # While a graph is traced lengths are symbols, and slicing by one would add a guard.
        out_KC = out_RC if rows_R is active_K else out_RC[: len(active_K)]
        return out_TC.index_copy(0, active_K, out_KC).reshape(*x.shape[:-1], out_RC.shape[-1])

    def onto(self, branch: ResidualBranch, x: Tensor, route: Route, out: Tensor) -> Tensor:
        """Gathers the active rows of both, adds the branch, and writes them back: no row twice, so no atomics."""
        if route.dense or route.gate is not None:
            return super().onto(branch, x, route, out)
        active_K, rows_R = self._rows(route)
        x_TC, out_TC = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
        sum_RC = branch.onto(x_TC.index_select(0, rows_R), out_TC.index_select(0, rows_R))
        sum_KC = sum_RC if rows_R is active_K else sum_RC[: len(active_K)]
        return out_TC.index_copy_(0, active_K, sum_KC).reshape(out.shape)

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        """Shapes: R, the rows of an image, is that of the image with most active tokens, rounded up."""
        if route.dense:
            return fn(x, ALL_TOKENS)
        batch, count = route.active.shape
        lengths_B = route.active.sum(1)
        least, most = torch.stack(lengths_B.aminmax()).tolist() if batch else (0, 0)
        if most == 0:
            return x.new_zeros(x.shape)
        longest = most if self.exact else rounded(most, count)
        # A stable sort brings each image's active tokens to the front in their order; the rest of a short row is
        # padding.
        index_BR = route.active.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
        valid_BR = torch.arange(longest, device=x.device) < lengths_B[:, None]
        x_BRC = x.gather(1, index_BR[..., None].expand(-1, -1, x.shape[-1]))
        out_BRC = fn(x_BRC, Tokens(index_BR, None if least == longest else valid_BR))
        # Padding rows were gathered from inactive positions, so that multiplying by the gathered mask zeroes them.
        out_BRC = out_BRC * route.mask(out_BRC.dtype).gather(1, index_BR[..., None])
        out_BNC = torch.zeros(batch, count, out_BRC.shape[-1], dtype=out_BRC.dtype, device=out_BRC.device)
        return out_BNC.scatter(1, index_BR[..., None].expand_as(out_BRC), out_BRC)

    def _rows(self, route: Route) -> tuple[Tensor, Tensor]:
        """(K,) int64, the positions of the active ones of all tokens; (R,) int64, those that are computed, K first."""
        active_K = route.active.reshape(-1).nonzero().squeeze(-1)
        return active_K, active_K if self.exact else filled(active_K, route.active.numel())


def rounded(count: int, total: int) -> int:
    """The number of rows that `count` of `total` tokens are given: `count` or more, at most `total`, and none for none.

    A multiple of the least number by which `total` is gone through in at most `STEPS` steps; up to `STEPS` tokens every
    count is one.
    """
    step = max(-(-total // STEPS), 1)
    return min(-(-count // step) * step, total)


def filled(index: Tensor, total: int) -> Tensor:
    """The positions `index` (K,) int64 of K tokens, as many as their rounded number of rows: the first is repeated.

    An active token's row can be computed, whatever the inactive ones hold. The results of the last rows are to be
    dropped and not written: positions that occur twice would be written in any order. While a graph is traced K is a
    symbol, and nothing is added.
    """
    if torch.compiler.is_compiling():
        return index
    more = rounded(len(index), total) - len(index)
    return torch.cat([index, index[:1].expand(more)]) if more else index
