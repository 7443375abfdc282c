"""BudgetTable: which thresholds give which rate, so that a trained model's cost is chosen afterwards without images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from dyt.core.scores import LEAST
from dyt.errors import DyTError, quoted

MOST_RATES = 1000
"""Rows of a table at most."""
LARGEST = 1e30
"""No threshold is larger, so that none of its sums is infinite."""
_ROUNDING = 1e-6
"""Of rates in float32."""
_BELOW = 10
"""How many times the spread of a site's thresholds, and 1, that of rate 1 is below the last of them."""
_ALL = 0.999
"""What stands for a rate of 1 where thresholds are interpolated."""


@dataclass(frozen=True)
class SiteBudgets:
    """One site's part of a table, a number for each of the table's rates.

    Attributes:
        thresholds: of the site; never ascending.
        rates: the share of the site's patch tokens that was active, in [0, 1].
    """

    thresholds: tuple[float, ...]
    rates: tuple[float, ...]


@dataclass(frozen=True)
class BudgetTable:
    """What `dyt.calibrate_budgets` found.

    Attributes:
        rates: what was asked for, ascending, above 0 and at most 1.
        reached: the rate over all sites that was reached for each.
        sites: by name, in forward order.
    """

    rates: tuple[float, ...]
    reached: tuple[float, ...]
    sites: Mapping[str, SiteBudgets]

    def __post_init__(self) -> None:
        count = len(self.rates)
        if not 2 <= count <= MOST_RATES:
            raise DyTError(f"a table of budgets has from 2 to {MOST_RATES} rates; given {count}")
        if not all(0 < rate <= 1 for rate in self.rates) or not all(a < b for a, b in pairwise(self.rates)):
            raise DyTError(
                f"a table of budgets has rates that ascend, above 0 and at most 1; given {quoted(self.rates)}"
            )
        if not self.sites:
            raise DyTError("a table of budgets has at least one site; given none")
        for name, found in {
            "all sites": self.reached,
            **{name: site.rates for name, site in self.sites.items()},
        }.items():
            if len(found) != count or not all(0 <= rate <= 1 for rate in found):
                raise DyTError(
                    f"a table of budgets has a reached rate from 0 to 1 for each of its {count} rates; given "
                    f"{quoted(found)} of {quoted(name)}"
                )
        for name, site in self.sites.items():
            found, descends = site.thresholds, all(a >= b for a, b in pairwise(site.thresholds))
            if len(found) != count or not descends or not all(abs(each) <= LARGEST for each in found):
                raise DyTError(
                    f"a table of budgets has a finite threshold for each of its {count} rates, none above the one "
                    f"before; given {quoted(found)} of {quoted(name)}"
                )

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest rate that it has thresholds for."""
        return self.rates[0], self.rates[-1]

    def check(self, rate: float) -> float:
        """The rate, where there are thresholds for it; one that rounding put outside is the nearest inside.

        Raises:
            DyTError: with the range that is allowed.
        """
        low, high = self.range
        if not low - _ROUNDING <= rate <= high + _ROUNDING:
            raise DyTError(
                f"budget is {rate:g}; allowed are rates from {low:g} to {high:g}, those that were calibrated; for "
                f"others: dyt.calibrate_budgets(model, batches, rates)"
            )
        return min(max(rate, low), high)

    def thresholds(self, rate: float) -> dict[str, float]:
        """The threshold of each site at a rate; never 0, so that ties are broken, and never ascending with the rate.

        Between two rows it is a straight line in the rate's normal quantile, as that of normal logits is. At 1 it is
        far below all logits that were seen.

        Raises:
            DyTError: a rate outside of the table's range.
        """
        rate = self.check(rate)
        upper = next(i for i, each in enumerate(self.rates) if rate <= each)
        lower = max(upper - 1, 0)
        low, high = _place(self.rates[lower]), _place(self.rates[upper])
        part = (_place(rate) - low) / (high - low) if high > low else 1.0
        found = {}
        for name, site in self.sites.items():
            above, below = site.thresholds[lower], site.thresholds[upper]
            threshold = below if rate == self.rates[upper] else above + part * (below - above)
            if rate == 1:
                threshold -= _BELOW * (1 + site.thresholds[0] - site.thresholds[-1])
            found[name] = threshold or LEAST
        return found


def _place(rate: float) -> float:
    return NormalDist().inv_cdf(min(rate, _ALL))
