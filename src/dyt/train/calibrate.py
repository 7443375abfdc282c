"""Setting the thresholds, after training, so that the rate at inference is the asked one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dyt.control import pooled_logits
from dyt.errors import DyTError
from dyt.model import DynamicModel, dynamic_of, record
from dyt.site import Site
from dyt.train.ranks import largest, summed

ROUNDS = 10
"""At most; each is one pass over the images. Two or three are usual."""


def calibrate_rate(
    model: nn.Module, batches: Iterable[Tensor], rate: float | Sequence[float], tolerance: float = 0.005
) -> float:
    """Sets the sites' thresholds so that the rate over these images, at inference, is `rate`.

    One rate shifts all thresholds by one common amount: what the routers learned, which tokens and how many in which
    layer, stays; only how many in all is set. Early decisions change later logits, so the shift is found by iterating:
    the quantile of the pooled logits, then the images again. A rate for each site sets each threshold by its own
    logits, front to back: behind sites that are settled a site's logits no longer change.

    With several processes each is given its own images; the rate is that of all of them.

    Args:
        model: the dynamic model, or what wraps it; in whatever mode, which is left as it was. Changes the sites'
            `threshold` only.
        batches: images (B, 3, H, W), gone through several times: for rates by site at most once more than there are
            sites.
        rate: the asked rate, mean over the patch tokens of all sites, in (0, 1]; or one for each of `model.sites`.
        tolerance: how near is near enough, for the mean or for each site.

    Returns:
        The rate that was reached, over all sites; the nearest one where logits that are all alike leave a gap.

    Raises:
        DyTError: a rate outside (0, 1], another number of rates than sites, no images, or a site whose dispatcher
            scores nothing.
    """
    model = dynamic_of(model)
    asked = [rate] if isinstance(rate, (int, float)) else list(rate)
    for each in asked:
        if not 0 < each <= 1:
            raise DyTError(f"calibrate_rate: rate is {each}; it must be above 0 and at most 1")
    single = isinstance(rate, (int, float))
    if not single and len(asked) != len(model.sites):
        raise DyTError(
            f"calibrate_rate: {len(asked)} rates given, the model has {len(model.sites)} sites; give one for each, or "
            f"one for all"
        )
    training = model.training
    model.eval()
    try:
        return _shifted(model, batches, asked[0], tolerance) if single else _each(model, batches, asked, tolerance)
    finally:
        model.train(training)


def _shifted(model: DynamicModel, batches: Iterable[Tensor], rate: float, tolerance: float) -> float:
    """One common shift, from the quantile of the pooled logits; keeps the best of the rounds."""
    sites = model.sites
    best: tuple[float, float, list[Tensor]] | None = None
    for _ in range(ROUNDS):
        excess = torch.cat(_excess(model, sites, batches))
        reached = _active(excess)
        if best is None or abs(reached - rate) < best[0]:
            best = abs(reached - rate), reached, [site.threshold.clone() for site in sites]
        if best[0] <= tolerance:
            break
        shift = _quantile(excess, rate)
        for site in sites:
            site.threshold += shift
    assert best is not None
    for site, threshold in zip(sites, best[2], strict=True):
        site.threshold.copy_(threshold)
    return best[1]


def _each(model: DynamicModel, batches: Iterable[Tensor], rates: Sequence[float], tolerance: float) -> float:
    """Each site by its own logits. The pass that settles a site also moves those behind it, as a first guess."""
    sites = model.sites
    for settled in range(len(sites) + 1):
        excess = _excess(model, sites, batches)
        off = [
            i
            for i, (values, rate) in enumerate(zip(excess, rates, strict=True))
            if i >= settled and abs(_active(values) - rate) > tolerance
        ]
        if not off:
            break
        for i in off:
            sites[i].threshold += _quantile(excess[i], rates[i])
    return _active(torch.cat(excess))


@torch.no_grad()
def _excess(model: DynamicModel, sites: Sequence[Site], batches: Iterable[Tensor]) -> list[Tensor]:
    """For each site, all its logits minus its threshold, (M,)."""
    found: list[list[Tensor]] = [[] for _ in sites]
    for images in batches:
        with record(model) as routes:
            model(images)
        for pooled, route, site in zip(found, routes, sites, strict=True):
            pooled.append(pooled_logits([route], [site]))
    excess = [torch.cat(pooled) if pooled else torch.empty(0) for pooled in found]
    if _total(sum(values.numel() for values in excess)) == 0:
        raise DyTError("calibrate_rate: no images were given")
    return excess


def _active(excess: Tensor) -> float:
    """The share of all processes' values that are above 0."""
    return _total(int((excess > 0).sum())) / max(_total(excess.numel()), 1)


def _quantile(excess: Tensor, rate: float) -> float:
    """The shift above which a share `rate` of all processes' values lies, by bisection: only counts are shared."""
    total = max(_total(excess.numel()), 1)
    low, high = -_most(-excess) - 1.0, _most(excess)
    for _ in range(50):
        middle = (low + high) / 2
        if _total(int((excess > middle).sum())) / total > rate:
            low = middle
        else:
            high = middle
    return high


def _total(value: int) -> int:
    return int(summed(torch.tensor(value)))


def _most(values: Tensor) -> float:
    return largest(float(values.max()) if values.numel() else float("-inf"))
