"""Numbers of all processes together; in a single process, the numbers themselves."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def summed(values: Tensor) -> Tensor:
    """The sum over all processes of `values`, float64 on the CPU."""
    return _reduced(values, dist.ReduceOp.SUM)


def largest(value: float) -> float:
    """The largest `value` of all processes."""
    return float(_reduced(torch.tensor(value), dist.ReduceOp.MAX))


def _reduced(values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    values = values.detach().cpu().double()
    if not (dist.is_available() and dist.is_initialized()):
        return values
    shared = values.cuda() if dist.get_backend() == "nccl" else values.clone()
    dist.all_reduce(shared, op=operation)
    return shared.cpu()
