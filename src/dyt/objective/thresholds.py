"""Quantiles of logits: the threshold above which a target share of them lies.

The one place that computes it: for a step that holds a rate by a threshold (`objective.control`), for the calibration
after training, and for the start of the routers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyt.core import ranks, scores
from dyt.core.route import Route
from dyt.errors import DyTError
from dyt.model.dynamic import DynamicModel
from dyt.model.site import Site


def thresholds_of(route: Route, site: Site) -> Tensor:
    """(M,) float32: for each patch token that is no padding, the threshold of its site up to which it is active.

    At token level that is its logit evened by its place (`dyt.core.scores`), at sample level its image's logit.

    Raises:
        DyTError: a route whose dispatcher scores nothing.
    """
    if route.logits is None:
        raise DyTError(
            f"site {route.site} has no logits to put a threshold on: its dispatcher scores no tokens or "
            f"fixes their number; use a learned dispatcher, or objective.control: loss and no calibration"
        )
    values = route.logits.float() if site.dispatcher.level == "sample" else scores.evened(route.logits)
    return values.flatten() if route.padding is None else values[~route.padding[:, route.prefix :]]


def threshold_for(values: Tensor, rate: float) -> Tensor:
    """() float32: a threshold below a share `rate` of the values (M,), half-way between two of them; never 0.

    Equal values stay on one side: on that which leaves the share nearer to `rate`. For a rate of 1 it is below
    all of them.
    """
    below = round((1 - rate) * values.numel())
    if below == 0:
        return scores.breaking(values.min() - 1)
    last = values.kthvalue(below).values
    over = torch.where(values > last, values, torch.inf).min()
    under = torch.where(values < last, values, -torch.inf).max()
    up_to_it, before_it = (values <= last).sum(), (values < last).sum()
    with_it = up_to_it - below <= below - before_it
    low, high = torch.where(with_it, last, under), torch.where(with_it, over, last)
    # beyond the last value, or before the first one, there is no other to stand half-way to
    low, high = torch.where(low.isinf(), high - 2, low), torch.where(high.isinf(), low + 2, high)
    middle = low + (high - low) / 2
    return scores.breaking(torch.where(middle < high, middle, low))  # neighbouring floats have none between them


def thresholds_for(values: Sequence[Tensor], rate: float | Sequence[float]) -> list[Tensor]:
    """For each site the threshold, () float32, above which a share of the values of all ranks lies; alike on each rank.

    Args:
        values: for each site what `thresholds_of` gave, over however many forwards; ranks may differ in how many.
        rate: one rate is the share of all sites' values together, and gives all the same threshold; with a rate for
            each site, each has the quantile of its own values.
    """
    if isinstance(rate, (int, float)):
        return [threshold_for(ranks.gathered(torch.cat(list(values))), rate)] * len(values)
    return [threshold_for(ranks.gathered(own), each) for own, each in zip(values, rate, strict=True)]


@torch.no_grad()
def set_thresholds(model: DynamicModel, values: Sequence[Tensor], rate: float | Sequence[float]) -> None:
    """Moves the sites' thresholds to `thresholds_for` these values."""
    for site, threshold in zip(model.sites, thresholds_for(values, rate), strict=True):
        site.threshold.copy_(threshold)
