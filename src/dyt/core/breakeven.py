"""BreakEven: from which activity on a branch is run for every token, and its inactive tokens are masked afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from dyt.core.route import Route
from dyt.errors import DyTError


@dataclass(frozen=True)
class BreakEven:
    """What `dyt.calibrate_break_even` measured of one site.

    Attributes:
        batches: batch sizes, ascending.
        shares: for each of them the share of active tokens (prefix included) above which computing all tokens is
            faster than skipping; 1 where skipping always pays, 0 where it never does.
        expected: the mean share of active tokens, for devices where counting would wait for the device.
    """

    batches: tuple[int, ...]
    shares: tuple[float, ...]
    expected: float

    def __post_init__(self) -> None:
        sound = len(self.batches) == len(self.shares) > 0 and list(self.batches) == sorted(set(self.batches))
        if not sound or self.batches[0] < 1 or not all(0 <= x <= 1 for x in (*self.shares, self.expected)):
            raise DyTError(
                f"a break-even has batch sizes, ascending from 1 on, a share in [0, 1] for each, and one expected; "
                f"given {self.batches}, {self.shares}, {self.expected}"
            )

    def at(self, batch: int) -> float:
        """The share for a batch of this size: that of the nearest measured one, by ratio."""
        nearest = min(range(len(self.batches)), key=lambda i: abs(math.log(self.batches[i] / max(batch, 1))))
        return self.shares[nearest]

    def prefers_dense(self, route: Route) -> bool:
        """Whether to compute all tokens of this route.

        On the CPU its active tokens are counted. Elsewhere, and while a graph is traced, counting would make the host
        wait for the device, and the expected share stands for them.
        """
        limit = self.at(route.active.shape[0])
        if limit <= 0 or limit >= 1:
            return limit <= 0
        if route.active.device.type != "cpu" or torch.compiler.is_compiling():
            return self.expected > limit
        return int(route.active.sum()) > limit * route.active.numel()
