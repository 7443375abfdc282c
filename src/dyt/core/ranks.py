"""Everything of `torch.distributed`: numbers and objects of all ranks together; of a single process, its own.

Each function here is a collective: every rank must call it, in the same order. Without a process group they cost
nothing and communicate nothing.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def several() -> bool:
    """Whether there is a process group, be it of one rank."""
    return dist.is_available() and dist.is_initialized()


def total(values: Tensor) -> tuple[Tensor, int]:
    """The sum over all ranks, and how many ranks there are; written into `values`, on its device and in its dtype."""
    if not several():
        return values, 1
    dist.all_reduce(values)
    return values, dist.get_world_size()


def summed(values: Tensor) -> Tensor:
    """The sum over all ranks, float64 on the CPU: exact for counts up to 2^53."""
    return _reduced(values, dist.ReduceOp.SUM)


def largest(value: float) -> float:
    """The largest `value` of all ranks."""
    return float(_reduced(torch.tensor(value), dist.ReduceOp.MAX))


def gathered(values: Tensor) -> Tensor:
    """The values (M,) of all ranks, one after another, on the device of `values`; ranks may differ in how many."""
    if not several():
        return values
    own = _reachable(values)
    counts = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([own.numel()], device=own.device))
    numbers = [int(count) for count in counts]
    padded = own.new_zeros(max(numbers))  # all_gather takes tensors of one shape
    padded[: own.numel()] = own
    every = [torch.empty_like(padded) for _ in numbers]
    dist.all_gather(every, padded)
    return torch.cat([rank[:number] for rank, number in zip(every, numbers, strict=True)]).to(values.device)


def gathered_objects(objects: list[T]) -> list[T]:
    """The objects of all ranks, which are pickled, one rank's after another's."""
    if not several():
        return objects
    every: list[list[T] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(every, objects)
    return [one for each in every if each is not None for one in each]


def first(values: Tensor) -> Tensor:
    """The first rank's values, on the device of `values`: what is computed from sums may differ in its last bit."""
    if not several():
        return values
    shared = _reachable(values)
    dist.broadcast(shared, 0)
    return shared.to(values.device)


def unreachable(error: RuntimeError) -> bool:
    """Whether an error of torch's says that another rank has ended or does not answer; gloo's have no class."""
    known = getattr(dist, "DistError", ())  # not there in a torch without torch.distributed
    return isinstance(error, known) or "gloo" in str(error) or "caused pair closure" in str(error)


def _reduced(values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    values = values.detach().cpu().double()
    if not several():
        return values
    shared = _reachable(values).clone()
    dist.all_reduce(shared, op=operation)
    return shared.cpu()


def _reachable(values: Tensor) -> Tensor:
    """The values where the process group can communicate them: NCCL knows GPUs alone."""
    return values.cuda() if dist.get_backend() == "nccl" else values.cpu()
