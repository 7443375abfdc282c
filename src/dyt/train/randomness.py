"""Randomness as a pure function of the seed and the place: resuming needs no state, and workers do not matter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch


def derived(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def permutation(count: int, *parts: int | str) -> list[int]:
    """0 .. count-1 in the random order of this seed."""
    generator = torch.Generator().manual_seed(derived(*parts))
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order


def epoch_batches(
    count: int, batch_size: int, seed: int, epoch: int, parts: int = 1, rank: int = 0, world: int = 1, start: int = 0
) -> Iterator[list[tuple[int, int]]]:
    """The (position, sample seed) pairs of one process in one epoch, part by part of each step.

    A step takes `batch_size` images of the epoch's permutation, over all processes and parts; which process or part an
    image falls to changes nothing about it. The incomplete last batch is dropped.

    Args:
        start: steps of this epoch that are done.
    """
    order = permutation(count, seed, "order", epoch)
    share = batch_size // (parts * world)
    for step in range(start, count // batch_size):
        for part in range(parts):
            first = step * batch_size + (part * world + rank) * share
            yield [(i, derived(seed, "sample", epoch, i)) for i in order[first : first + share]]
