"""Several ranks in one process: threads whose collectives of torch.distributed meet one another, for tests of sums."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")


class _Ranks:
    """What the collectives of as many threads have in common."""

    def __init__(self, world: int) -> None:
        self.world, self.own = world, threading.local()
        self.barrier = threading.Barrier(world, timeout=60)
        self.given: list[Any] = [None] * world

    def met(self, value: Any) -> list[Any]:
        """What every rank gave, in the order of the ranks."""
        self.given[self.own.rank] = value.detach().clone() if isinstance(value, Tensor) else value
        self.barrier.wait()
        found = list(self.given)
        self.barrier.wait()
        return found

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM, **_: Any) -> None:
        found = torch.stack(self.met(tensor))
        tensor.copy_(found.sum(0) if op == dist.ReduceOp.SUM else found.amax(0))

    def all_gather(self, tensors: list[Tensor], tensor: Tensor, **_: Any) -> None:
        for place, given in zip(tensors, self.met(tensor), strict=True):
            place.copy_(given)

    def all_gather_object(self, objects: list[Any], given: Any) -> None:
        objects[:] = self.met(given)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        tensor.copy_(self.met(tensor)[source])


def on_ranks(world: int, run: Callable[[int], Result], monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """What `run(rank)` gives on each rank. What all ranks draw from, torch's global generator say, is one for all."""
    ranks = _Ranks(world)
    results: list[Any] = [None] * world
    failures: list[BaseException] = []

    def one(rank: int) -> None:
        ranks.own.rank = rank
        try:
            results[rank] = run(rank)
        except BaseException as error:
            failures.append(error)
            ranks.barrier.abort()

    with monkeypatch.context() as patched:
        patched.setattr(dist, "is_available", lambda: True)
        patched.setattr(dist, "is_initialized", lambda: True)
        patched.setattr(dist, "get_world_size", lambda *_: world)
        patched.setattr(dist, "get_rank", lambda *_: ranks.own.rank)
        patched.setattr(dist, "get_backend", lambda *_: "gloo")
        patched.setattr(dist, "all_reduce", ranks.all_reduce)
        patched.setattr(dist, "all_gather", ranks.all_gather)
        patched.setattr(dist, "all_gather_object", ranks.all_gather_object)
        patched.setattr(dist, "broadcast", ranks.broadcast)
        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    first = [error for error in failures if not isinstance(error, threading.BrokenBarrierError)] or failures
    if first:
        raise first[0]
    return results
