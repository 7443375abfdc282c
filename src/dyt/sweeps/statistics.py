"""Means and deviations over seeds, and Student's interval of paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Of some values: their mean, their sample standard deviation (None of one alone), and how many there are."""

    mean: float
    deviation: float | None
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences with its interval at 95 %; without ends where there is one pair alone."""

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @staticmethod
    def of(values: Sequence[float]) -> Difference:
        """Of at least one difference, by Student's t: exact where they are normal and independent."""
        found = Spread.of(values)
        if found.deviation is None:
            return Difference(found.mean, None, None, found.count)
        half = t_quantile(found.count - 1, (1 + CONFIDENCE) / 2) * found.deviation / math.sqrt(found.count)
        return Difference(found.mean, found.mean - half, found.mean + half, found.count)


@dataclass(frozen=True)
class Paired:
    """How much more one thing has than another, in pairs of the same task and seed.

    Attributes:
        runs: every (task, seed) is a pair.
        tasks: every task is one, with its mean over the seeds: seeds of one task are not independent of one another.
    """

    runs: Difference
    tasks: Difference

    @staticmethod
    def of(more: Mapping[tuple[str, int], float], less: Mapping[tuple[str, int], float]) -> Paired:
        """Of two mappings by (task, seed) with the same keys, at least one."""
        differences = {key: more[key] - less[key] for key in more}
        names = dict.fromkeys(task for task, _ in differences)
        each = [fmean(value for (task, _), value in differences.items() if task == name) for name in names]
        return Paired(Difference.of(list(differences.values())), Difference.of(each))


def t_quantile(freedom: int, probability: float) -> float:
    """Below which Student's t lies with this probability, from 0.5 up to below 1; `freedom` is 1 or more."""
    low, high = 0.0, 1.0
    while _below(high, freedom) < probability:
        high *= 2
    return _bisected(lambda t: _below(t, freedom) < probability, low, high)


def _bisected(short: Callable[[float], bool], low: float, high: float) -> float:
    while (middle := (low + high) / 2) not in {low, high}:
        low, high = (middle, high) if short(middle) else (low, middle)
    return high


def _below(t: float, freedom: int) -> float:
    """The distribution function at t >= 0, by the finite series for whole degrees of freedom (Abramowitz and Stegun,
    26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    within = math.sin(angle) * total
    if odd:
        within = 2 / math.pi * (angle + within)
    return (1 + within) / 2
