"""`dyt.calibrate_budgets`: the thresholds for many rates at once, kept with the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dyt.core import scores
from dyt.core.budgets import MOST_RATES, BudgetTable, SiteBudgets
from dyt.core.offloading import refuse_absent
from dyt.core.ranks import gathered
from dyt.errors import DyTError, UnsupportedError, quoted
from dyt.inference.thresholds import ROUNDS, Looked, look, share
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.objective.thresholds import threshold_for

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
NAME = "calibrate_budgets"


def calibrate_budgets(
    model: nn.Module,
    batches: Iterable[Tensor],
    rates: Sequence[float] = RATES,
    tolerance: float = 0.005,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BudgetTable:
    """Finds the thresholds of each rate, and keeps them with the model, so that `model.budget = 0.4` sets them.

    As `dyt.calibrate_thresholds` does for one rate, each rate shifts the thresholds that the model has now by one
    common amount, so that which tokens are active in which layer is what the routers learned. The thresholds
    themselves are left as they are. The table is kept by `dyt.save` and `dyt.load`, deepcopy and `dyt.optimize`; it is
    that of these weights: calibrate again after further training.

    A pass over the images costs a forward of each. There is one to begin, and then one or two for each rate, at most
    10: the rates are gone through from the highest down, and each starts from the logits of the one before.

    Args:
        model: the dynamic model, or what wraps it; in whatever mode, which is left as it was.
        batches: images (B, 3, H, W), or what else the head takes, gone through several times. With several processes
            each is given its own; the rates are those of all.
        rates: ascending, above 0 and at most 1, 2 to 1,000 of them; rates between them are interpolated.
        tolerance: how near to a rate is near enough.
        progress: called after each rate with how many are done, and how many there are.

    Returns:
        The table, which is also `model.budget_table`.

    Raises:
        DyTError: rates that do not ascend within (0, 1], no images, images that can be gone through once only, or a
            site whose dispatcher scores nothing.
        UnsupportedError: weights that are offloaded or sharded, or an optimised model whose last block decides nothing:
            calibrate the one that it was made from.
    """
    model = dynamic_of(model)
    refuse_absent(model, NAME)
    asked = _checked(rates)
    if iter(batches) is batches:
        raise DyTError(f"{NAME}: the images are gone through several times; give a list of batches, not an iterator")
    fixed = [site.name for site in model.sites if site.fixed_route]
    if fixed:
        raise UnsupportedError(
            f"{NAME}: site {fixed[0]} of this optimised model decides nothing; calibrate the model that it was made "
            f"from, before dyt.optimize, which keeps the table"
        )
    training, before = model.training, [site.threshold.clone() for site in model.sites]
    model.eval()
    with torch.no_grad():
        try:
            rows = _rows(model, batches, asked, tolerance, progress)
        finally:
            for site, threshold in zip(model.sites, before, strict=True):
                site.threshold.copy_(threshold)
            model.train(training)
    thresholds, shares = zip(*rows, strict=True)
    names = [site.name for site in model.sites]
    table = BudgetTable(
        asked,
        tuple(share(*found) for found in shares),
        {
            name: SiteBudgets(
                tuple(row[i] for row in thresholds),
                tuple(share(active[i], total[i]) for active, total in shares),
            )
            for i, name in enumerate(names)
        },
    )
    model.budget_table = table
    return table


def _checked(rates: Sequence[float]) -> tuple[float, ...]:
    numbers = isinstance(rates, Sequence) and all(type(rate) in {int, float} and 0 < rate <= 1 for rate in rates)
    if not numbers or not 2 <= len(rates) <= MOST_RATES or not all(a < b for a, b in pairwise(rates)):
        raise DyTError(
            f"{NAME}: rates are 2 to {MOST_RATES} numbers that ascend, above 0 and at most 1; given {quoted(rates)}"
        )
    return tuple(float(rate) for rate in rates)


def _rows(
    model: DynamicModel,
    batches: Iterable[Tensor],
    rates: tuple[float, ...],
    tolerance: float,
    progress: Callable[[int, int], None],
) -> list[tuple[list[float], tuple[Tensor, Tensor]]]:
    """For each rate the sites' thresholds, and active and all tokens of each site, (sites,) float64.

    Changes the thresholds.
    """
    base = [site.threshold.clone() for site in model.sites]
    looked, least = look(model, batches, NAME), -torch.inf
    rows = []
    for rate in reversed(rates):
        best: tuple[float, float, list[float], Looked] | None = None
        for _ in range(ROUNDS):
            # a higher rate's shift is never above it, so that thresholds descend whatever later logits do
            shift = max(_shift(looked, base, rate), least)
            for site, own in zip(model.sites, base, strict=True):
                site.threshold.copy_(scores.breaking(own + shift))
            looked = look(model, batches, NAME)
            off = abs(share(looked.active, looked.total) - rate)
            if best is None or off < best[0]:
                best = off, shift, [float(site.threshold) for site in model.sites], looked
            if best[0] <= (tolerance if rate < 1 else 0):
                break
        assert best is not None
        _, least, thresholds, looked = best
        rows.append((thresholds, (looked.active, looked.total)))
        progress(len(rows), len(rates))
    return rows[::-1]


def _shift(looked: Looked, base: list[Tensor], rate: float) -> float:
    """What all thresholds are shifted by for a rate, by the logits of one pass, of all processes."""
    excess = gathered(torch.cat([values - own for values, own in zip(looked.values, base, strict=True)]))
    if rate < 1:
        return float(threshold_for(excess, rate))
    low, high = float(excess.min()), float(excess.max())  # just below all, for rates between this and the one before
    return low - scores.WIDTH * (1 + abs(low)) - 0.01 * (high - low)
