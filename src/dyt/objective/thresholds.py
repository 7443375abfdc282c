"""Holding a rate by a threshold: the value above which the asked share of all sites' logits lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dyt.core import scores
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

    Equal values stay on one side: on that which leaves the share nearer to the asked one. For a rate of 1 it is below
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


def joint_threshold(values: Tensor, rate: float) -> Tensor:
    """`threshold_for` of the values of all ranks together, which may differ in number; the same on each rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return threshold_for(values, rate)
    return threshold_for(_gathered(values), rate).to(values.device)


def _gathered(values: Tensor) -> Tensor:
    """The values of all ranks, one rank's after another's."""
    on = values.cuda() if dist.get_backend() == "nccl" else values.cpu()
    counts = [torch.zeros(1, dtype=torch.int64, device=on.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([on.numel()], device=on.device))
    numbers = [int(count) for count in counts]
    padded = on.new_zeros(max(numbers))
    padded[: on.numel()] = on
    found = [torch.empty_like(padded) for _ in numbers]
    dist.all_gather(found, padded)
    return torch.cat([own[:number] for own, number in zip(found, numbers, strict=True)])


@torch.no_grad()
def follow(model: DynamicModel, values: Sequence[Tensor], rate: float | Sequence[float]) -> None:
    """Moves the sites' thresholds to where the asked share of these values, of all ranks, lies above.

    Args:
        model: whose sites' thresholds are moved.
        values: for each site what `thresholds_of` gave, over however many forwards.
        rate: one rate sets one threshold for all sites; a rate for each site sets each by its own values.
    """
    if isinstance(rate, (int, float)):
        found = [joint_threshold(torch.cat(list(values)), rate)] * len(model.sites)
    else:
        found = [joint_threshold(own, each) for own, each in zip(values, rate, strict=True)]
    for site, threshold in zip(model.sites, found, strict=True):
        site.threshold.copy_(threshold)
