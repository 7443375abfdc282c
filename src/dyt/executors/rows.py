"""How many rows a product is given: counts that follow from the data are rounded up to a few.

A library of products caches what it made for a shape (oneDNN a primitive, cuBLAS a heuristic's answer, autotuners a
choice), and an allocator keeps the gaps that other sizes left. With a new number of rows for every batch neither comes
to an end. The rows that are added are computed and dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 31
"""With none there are STEPS + 1 numbers of rows, 32 at most, and on average total / 62 rows more than there are tokens.
Fewer numbers would waste more, more would gain little: each is met again the less often."""


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
