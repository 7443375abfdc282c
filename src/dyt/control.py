"""Holding a rate by a threshold: the value above which the asked share of all sites' logits lies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
import torch.distributed as dist
from torch import Tensor

from dyt.errors import DyTError
from dyt.model import DynamicModel
from dyt.route import Route
from dyt.site import Site


def pooled_logits(routes: Sequence[Route], sites: Sequence[Site] = ()) -> Tensor:
    """(M,) float32: the logits of all patch tokens of all routes, without padding.

    Args:
        routes: of one forward.
        sites: of the same forward; when given, each site's threshold is taken off its logits.

    Raises:
        DyTError: a route whose dispatcher scores nothing.
    """
    pooled = []
    for route, site in zip_longest(routes, sites):
        if route.logits is None:
            raise DyTError(
                f"site {route.site} has no logits to put a threshold on: its dispatcher scores no tokens or "
                f"fixes their number; use a learned dispatcher, or objective.control: loss and no calibration"
            )
        hidden = None if route.padding is None else route.padding[:, route.prefix :]
        logits = route.logits if site is None else route.logits - site.threshold
        pooled.append(logits.flatten() if hidden is None else logits[~hidden])
    return torch.cat(pooled) if pooled else torch.empty(0)


def threshold_for(logits: Tensor, rate: float) -> Tensor:
    """() float32: the value above which a share `rate` of the logits (M,) lies; below all for a rate of 1."""
    below = round((1 - rate) * logits.numel())
    if below == 0:
        return logits.min() - 1
    return logits.kthvalue(below).values


@torch.no_grad()
def follow(model: DynamicModel, routes: Sequence[Route], rate: float | Sequence[float]) -> None:
    """Moves the sites' thresholds to where the asked share of these routes' logits lies above; over ranks, their mean.

    One rate sets one threshold for the pooled logits of all sites; a rate for each site sets each by its own logits.
    """
    if isinstance(rate, (int, float)):
        thresholds = threshold_for(pooled_logits(routes), rate).expand(len(model.sites)).clone()
    else:
        own = [threshold_for(pooled_logits([route]), r) for route, r in zip(routes, rate, strict=True)]
        thresholds = torch.stack(own)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(thresholds)
        thresholds /= dist.get_world_size()
    for site, threshold in zip(model.sites, thresholds, strict=True):
        site.threshold.copy_(threshold)
