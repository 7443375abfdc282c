"""`dyt.calibrate_thresholds`: the thresholds, set after training so that the rate at inference is the target rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyt.core import scores
from dyt.core.ranks import summed
from dyt.core.route import activation_rate
from dyt.deprecated import renamed
from dyt.errors import DyTError
from dyt.model.dynamic import DynamicModel, dynamic_of, record
from dyt.objective.thresholds import thresholds_for, thresholds_of

ROUNDS = 10
"""At most; each is one pass over the images. Two or three are usual."""
__getattr__ = renamed(__name__, {"calibrate_rate": "calibrate_thresholds"})


def calibrate_thresholds(
    model: nn.Module, batches: Iterable[Tensor], rate: float | Sequence[float], tolerance: float = 0.005
) -> float:
    """Sets the sites' thresholds so that the rate over these images, at inference, is `rate`.

    One rate shifts all thresholds by one common amount: what the routers learned, which tokens and how many in which
    layer, stays; only how many in all is set. Early decisions change later logits, so the shift is found by iterating:
    the quantile of the pooled logits, then the images again. A rate for each site sets each threshold by its own
    logits, front to back: a site's logits no longer change once the sites before it have their thresholds.

    With several processes each is given its own images; the rate is that of all of them.

    Args:
        model: the dynamic model, or what wraps it; in whatever mode, which is left as it was. Changes the sites'
            `threshold` only.
        batches: images (B, 3, H, W), gone through several times: for rates by site at most once more than there are
            sites.
        rate: the target rate, mean over the patch tokens of all sites, in (0, 1]; or one for each of `model.sites`.
        tolerance: how near is near enough, for the mean or for each site.

    Returns:
        The rate that was reached, over all sites. Where it had to be changed, ties are broken by the tokens' places
        (`dyt.core.scores`), so that it is met to within one token of an image whatever the logits; at sample level an
        image is one decision, and images whose logits are equal are active or not together.

    Raises:
        DyTError: a rate outside (0, 1], another number of rates than sites, no images, or a site whose dispatcher
            scores nothing.
    """
    model = dynamic_of(model)
    rates = [rate] if isinstance(rate, (int, float)) else list(rate)
    for each in rates:
        if not 0 < each <= 1:
            raise DyTError(f"calibrate_thresholds: rate is {each}; it must be above 0 and at most 1")
    single = isinstance(rate, (int, float))
    if not single and len(rates) != len(model.sites):
        raise DyTError(
            f"calibrate_thresholds: {len(rates)} rates given, the model has {len(model.sites)} sites; give one for "
            f"each, or one for all"
        )
    training = model.training
    model.eval()
    try:
        return _shifted(model, batches, rates[0], tolerance) if single else _each(model, batches, rates, tolerance)
    finally:
        model.train(training)


def _shifted(model: DynamicModel, batches: Iterable[Tensor], rate: float, tolerance: float) -> float:
    """One common shift, from the quantile of the pooled logits; keeps the best of the rounds."""
    sites = model.sites
    best: tuple[float, float, list[Tensor]] | None = None
    for _ in range(ROUNDS):
        looked = look(model, batches)
        reached = share(looked.active, looked.total)
        if best is None or abs(reached - rate) < best[0]:
            best = abs(reached - rate), reached, [site.threshold.clone() for site in sites]
        if best[0] <= tolerance:
            break
        excess = [values - site.threshold for values, site in zip(looked.values, sites, strict=True)]
        shift = thresholds_for(excess, rate)[0]
        for site in sites:
            site.threshold.copy_(scores.breaking(site.threshold + shift))
    assert best is not None
    for site, threshold in zip(sites, best[2], strict=True):
        site.threshold.copy_(threshold)
    return best[1]


def _each(model: DynamicModel, batches: Iterable[Tensor], rates: Sequence[float], tolerance: float) -> float:
    """Each site by its own logits, front to back. The pass that fixes one also moves those after it: a first guess."""
    sites = model.sites
    for fixed in range(len(sites) + 1):
        looked = look(model, batches)
        reached = [share(looked.active[i : i + 1], looked.total[i : i + 1]) for i in range(len(sites))]
        off = [
            i
            for i, (found, rate) in enumerate(zip(reached, rates, strict=True))
            if i >= fixed and abs(found - rate) > tolerance
        ]
        if not off:
            break
        moved = thresholds_for([looked.values[i] for i in off], [rates[i] for i in off])
        for i, threshold in zip(off, moved, strict=True):
            sites[i].threshold.copy_(threshold)
    return share(looked.active, looked.total)


@dataclass(frozen=True)
class Looked:
    """What a pass over the images found: for each site its values (M,) of this process; active and all tokens of all
    processes, (sites,) float64."""

    values: list[Tensor]
    active: Tensor
    total: Tensor


@torch.no_grad()
def look(model: DynamicModel, batches: Iterable[Tensor], function: str = "calibrate_thresholds") -> Looked:
    """Runs the model, as its mode is, over the images; `function` is the name that an error has.

    Raises:
        DyTError: there are none, on any process, or a site's dispatcher scores nothing.
    """
    found: list[list[Tensor]] = [[] for _ in model.sites]
    counts = torch.zeros(2, len(found), dtype=torch.float64)
    for images in batches:
        with record(model) as routes:
            model(images)
        for pooled, route, site in zip(found, routes, model.sites, strict=True):
            pooled.append(thresholds_of(route, site))
        counts += torch.stack([torch.stack(activation_rate([route])) for route in routes], 1).cpu()
    active, total = summed(counts)
    if total.sum() == 0:
        raise DyTError(f"{function}: no images were given")
    empty = model.sites[0].threshold.new_empty(0)
    return Looked([torch.cat([empty, *pooled]) for pooled in found], active, total)


def share(active: Tensor, total: Tensor) -> float:
    """The share of the tokens of some sites that is active."""
    return float(active.sum() / total.sum().clamp_min(1))
