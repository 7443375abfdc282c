"""`model.budget`: the rate of a trained model, set from its table of thresholds."""

from __future__ import annotations

from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from dyt.core.budgets import BudgetTable
from dyt.core.offloading import refuse_absent
from dyt.errors import DyTError, quoted
from dyt.model.site import Site


@runtime_checkable
class Resolved(Protocol):
    """What says in other words what a forward may cost; `dyt.Budget` is one."""

    def rate_of(self, model: Any, /) -> float:
        """The rate of this dynamic model that it comes to."""


class Budgeted(nn.Module):
    """The part of `DynamicModel` that knows what its rates cost.

    Attributes:
        budget_table: what `dyt.calibrate_budgets` found; None before it.
    """

    budget_table: BudgetTable | None = None
    set_rate: float | None = None
    """What `budget` gives."""

    @property
    def budget(self) -> float | None:
        """The rate that was last set here; None where none was. Whatever sets thresholds otherwise does not change it.

        Setting it sets every site's threshold, from the table that `dyt.calibrate_budgets` made and `dyt.save` keeps:
        to a rate within the table, or to a `dyt.Budget`.

        Raises:
            DyTError: no rate, one outside of the table, or no table.
            UnsupportedError: weights that are offloaded or sharded.
        """
        return self.set_rate

    @budget.setter
    def budget(self, budget: float | Resolved) -> None:
        table, sites = self.calibrated_table(), sites_of(self)
        refuse_absent(self, "budget")
        rate = table.check(number(budget.rate_of(self) if isinstance(budget, Resolved) else budget))
        found = table.thresholds(rate)
        with torch.no_grad():
            for site in sites:
                site.threshold.fill_(found[site.name])
        self.set_rate = rate

    def calibrated_table(self) -> BudgetTable:
        """The model's table.

        Raises:
            DyTError: there is none, or it is of other sites.
        """
        table = self.budget_table
        if table is None:
            raise DyTError("calibrate first: dyt.calibrate_budgets(model, batches)")
        if set(table.sites) != {site.name for site in sites_of(self)}:
            raise DyTError(
                "the model has other sites than when it was calibrated: dyt.calibrate_budgets(model, batches)"
            )
        return table


def sites_of(model: Any) -> tuple[Site, ...]:
    """`DynamicModel.sites`."""
    return tuple(model.sites)


def number(value: object) -> float:
    """A rate as a number.

    Raises:
        DyTError: something else.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise DyTError(f"budget is {quoted(value)}; it is a rate, a number above 0 and at most 1, or a dyt.Budget")
    return float(value)
