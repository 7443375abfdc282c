"""`capacity`: active tokens packed into a fixed number of rows. No shape depends on data, nothing waits for the device.

Shapes: B images, N tokens, K tokens of an image that there is room for, T = B N, R = B K rows. What a route decides
enters as values of index tensors only, so that the forward can be captured once (CUDA graphs), exported and compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from dyt.core.execution import Executor, Mixing, Pointwise, TokenCapacity
from dyt.core.route import Route, Tokens
from dyt.executors.masked import Masked
from dyt.registry import executors


@executors("capacity")
class Capacity(Executor):
    """Static shapes, as of a mixture of experts with a capacity; but no token is dropped (compare Switch, GShard).

    A site's capacity is a share of its tokens: an image's in a mixing branch; the batch's in a pointwise one, where
    images with few active tokens leave room for others. What happens where more are active is its `overflow`: `dense`
    runs the branch densely in that forward, with the numbers of `masked`; `nan` makes every number of the images
    concerned NaN, so that whoever uses them knows, and never waits for the device. A site without room for less than
    all tokens runs densely.
    """

    regroups: ClassVar[bool] = True
    reads_modules: ClassVar[bool] = False

    def __init__(self, capacity: TokenCapacity | None = None) -> None:
        self.capacity = TokenCapacity() if capacity is None else capacity

    def at(self, capacity: TokenCapacity) -> Executor:
        return Capacity(capacity)

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        rows = self._rows(x, route)
        if route.dense or rows >= x.shape[1]:
            return Masked().pointwise(fn, x, route)
        index, place, fits = pack(route.active.reshape(1, -1), x.shape[0] * rows)

        def packed() -> Tensor:
            out = fn(x.flatten(0, 1).index_select(0, index[0]).unsqueeze(0)).squeeze(0)
            out = out.index_select(0, place[0])
            return _zeroed(out.reshape(*x.shape[:2], out.shape[-1]), route)

        overflowed = (route.active & ~fits.reshape(route.active.shape)).any(1)
        return self._exact(packed, lambda: Masked().pointwise(fn, x, route), overflowed)

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        rows = self._rows(x, route)
        if route.dense or rows >= x.shape[1]:
            return Masked().mixing(fn, x, route)
        index, place, fits = pack(route.active, rows)
        valid = torch.arange(rows, device=x.device) < route.active.sum(1, keepdim=True)

        def packed() -> Tensor:
            out = fn(x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1])), Tokens(index, valid))
            return _zeroed(out.gather(1, place.unsqueeze(-1).expand(-1, -1, out.shape[-1])), route)

        return self._exact(packed, lambda: Masked().mixing(fn, x, route), (route.active & ~fits).any(1))

    def _rows(self, x: Tensor, route: Route) -> int:
        """K: prefix tokens always have room; what a product of floats adds to a whole number is not a token."""
        return max(math.ceil(self.capacity.share * x.shape[1] - 1e-6), route.prefix, 1)

    def _exact(self, packed: Callable[[], Tensor], dense: Callable[[], Tensor], overflowed: Tensor) -> Tensor:
        """What was packed, unless tokens of an image had no room: `overflowed` (B,) bool."""
        if self.capacity.overflow == "nan":
            out = packed()
            fits = (~overflowed[:, None, None]).to(out.dtype)
            return out * (fits / fits)  # 1 or 0 / 0: a written file of an older torch cannot have NaN as a constant
        if torch.compiler.is_compiling():
            either: Tensor = torch.cond(overflowed.any(), dense, packed)
            return either
        return dense() if bool(overflowed.any()) else packed()


def pack(active: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where active tokens go when the first `rows` of each group are packed in their order.

    Args:
        active: (G, N) bool, groups of tokens.
        rows: R, the rows of a group.

    Returns:
        (G, R) int64, which token is in each row, the group's last one in rows that are left over; (G, N) int64, which
        row each active token is in (any row for the others); (G, N) bool, whether that row is among the R.
    """
    count = active.shape[1]
    place = active.cumsum(1) - 1
    fits = place < rows
    # Tokens that are not to be packed all go to one row more than there are, which is cut off.
    target = place.masked_fill(~(active & fits), rows)
    tokens = torch.arange(count, device=active.device).expand_as(target)
    index = torch.full((active.shape[0], rows + 1), count - 1, dtype=torch.int64, device=active.device)
    return index.scatter(1, target, tokens)[:, :rows], place.clamp(0, rows - 1), fits


def _zeroed(out: Tensor, route: Route) -> Tensor:
    out = out if route.gate is None else out * route.mask(out.dtype)
    return out.masked_fill(~route.active.unsqueeze(-1), 0)
