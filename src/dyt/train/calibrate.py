"""Setting the thresholds, after training, so that the rate at inference is the asked one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dyt.control import pooled_logits
from dyt.errors import DyTError
from dyt.model import DynamicModel, record
from dyt.site import Site
from dyt.train.ranks import largest, summed

ROUNDS = 10
"""At most; each is one pass over the images. Two or three are usual."""


def calibrate_rate(model: DynamicModel, batches: Iterable[Tensor], rate: float, tolerance: float = 0.005) -> float:
    """Shifts all sites' thresholds by one common amount so that the rate over these images, at inference, is `rate`.

    What the routers learned, which tokens and how many in which layer, stays; only how many in all is set. Early
    decisions change later logits, so the shift is found by iterating: the quantile of the pooled logits, then the
    images again. With several processes each is given its own images; the rate is that of all of them.

    Args:
        model: in whatever mode, which is left as it was. Changes the sites' `threshold` only.
        batches: images (B, 3, H, W), gone through several times.
        rate: the asked rate, mean over the patch tokens of all sites, in (0, 1].
        tolerance: how near is near enough.

    Returns:
        The rate that was reached; the nearest one where logits that are all alike leave a gap.

    Raises:
        DyTError: a rate outside (0, 1], no images, or a site whose dispatcher scores nothing.
    """
    if not 0 < rate <= 1:
        raise DyTError(f"calibrate_rate: rate is {rate}; it must be above 0 and at most 1")
    sites, training = model.sites, model.training
    model.eval()
    try:
        best: tuple[float, float, list[Tensor]] | None = None
        for _ in range(ROUNDS):
            excess, reached = _pooled(model, sites, batches)
            if best is None or abs(reached - rate) < best[0]:
                best = abs(reached - rate), reached, [site.threshold.clone() for site in sites]
            if best[0] <= tolerance:
                break
            shift = _quantile(excess, rate)
            for site in sites:
                site.threshold += shift
    finally:
        model.train(training)
    assert best is not None
    for site, threshold in zip(sites, best[2], strict=True):
        site.threshold.copy_(threshold)
    return best[1]


@torch.no_grad()
def _pooled(model: DynamicModel, sites: Sequence[Site], batches: Iterable[Tensor]) -> tuple[Tensor, float]:
    """All logits minus their site's threshold (M,), and the share of them above 0 over all processes."""
    pooled = []
    for images in batches:
        with record(model) as routes:
            model(images)
        pooled.append(pooled_logits(routes, sites))
    excess = torch.cat(pooled) if pooled else torch.empty(0)
    total = _total(excess.numel())
    if total == 0:
        raise DyTError("calibrate_rate: no images were given")
    return excess, _total(int((excess > 0).sum())) / total


def _quantile(excess: Tensor, rate: float) -> float:
    """The shift above which a share `rate` of all processes' values lies, by bisection: only counts are shared."""
    total = _total(excess.numel())
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
