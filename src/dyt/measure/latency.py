"""Paired latency: what is compared runs in turns, so that a machine that slows down slows down all of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from dyt.errors import DyTError

CONFIDENCE = 0.95
"""Asked coverage of the interval of a median."""


@dataclass(frozen=True)
class Interval:
    """A median of paired ratios with a distribution-free interval.

    Attributes:
        median: of the ratios.
        low, high: order statistics of the ratios that enclose the true median with probability `coverage`.
        coverage: at least 0.95; less where there are too few pairs for that (under 6), and then low and high are the
            smallest and the largest ratio.
        pairs: number of ratios.
    """

    median: float
    low: float
    high: float
    coverage: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Comparison:
    """What `paired` measured.

    Attributes:
        seconds: the duration of every timed call, by function, in the order of the rounds.
    """

    seconds: Mapping[str, tuple[float, ...]]

    def speedup(self, of: str, over: str) -> Interval:
        """How many times faster `of` is than `over`: the median over rounds of seconds(over) / seconds(of)."""
        return median_interval([b / a for a, b in zip(self.seconds[of], self.seconds[over], strict=True)])

    def best(self, name: str) -> float:
        """Seconds of the fastest call: what the function costs where nothing else disturbs it."""
        return min(self.seconds[name])


def paired(
    fns: Mapping[str, Callable[[], Any]],
    pairs: int = 10,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Times functions in turns: A B, B A, A B, ...; a call of each is a round; calls of one round are compared.

    Whatever else the machine does in a round then strikes all functions alike; the order turns from round to round, so
    that a drift within rounds favours none.

    Args:
        fns: functions without arguments, finished when they return (one that runs on an accelerator synchronises).
        pairs: timed rounds; 6 are needed for a 95 % interval of the median.
        warmup: untimed rounds before them.
        clock: seconds, monotonic.
        progress: called after every round with the number of rounds done, warm-up included.

    Raises:
        DyTError: fewer than one function or pair, or a negative warm-up.
    """
    if not fns or pairs < 1 or warmup < 0:
        raise DyTError(f"paired needs functions, pairs >= 1, warmup >= 0; given {len(fns)}, {pairs}, {warmup}")
    seconds: dict[str, list[float]] = {name: [] for name in fns}
    for turn in range(-warmup, pairs):
        for name in fns if turn % 2 == 0 else reversed(list(fns)):
            start = clock()
            fns[name]()
            if turn >= 0:
                seconds[name].append(clock() - start)
        progress(turn + warmup + 1)
    return Comparison({name: tuple(times) for name, times in seconds.items()})


def median_interval(values: list[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of independent values, with the narrowest pair of symmetric order statistics of that confidence.

    The true median lies between the k-th smallest and the k-th largest of n values with probability
    1 - 2 P(Binomial(n, 1/2) < k), whatever their distribution.

    Raises:
        DyTError: no values.
    """
    if not values:
        raise DyTError("median_interval needs at least one value; given none")
    ordered, n = sorted(values), len(values)
    rank, coverage = 1, _coverage(n, 1)
    while 2 * (rank + 1) <= n and _coverage(n, rank + 1) >= confidence:
        rank, coverage = rank + 1, _coverage(n, rank + 1)
    return Interval(median(ordered), ordered[rank - 1], ordered[-rank], coverage, n)


def _coverage(n: int, rank: int) -> float:
    return float(max(0.0, 1 - 2 * sum(math.comb(n, i) for i in range(rank)) / 2**n))
