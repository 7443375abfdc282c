"""Accuracy, activation and multiply-accumulates of a model on a split, at inference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from dyt.errors import DyTError
from dyt.measure.macs import count_macs
from dyt.model import DynamicModel, execution, forced, record
from dyt.route import Route
from dyt.slots import Spec
from dyt.train.ranks import summed
from dyt.variants.base import POINTWISE, DynamicBlock


class Report(Spec):
    """What `evaluate` found.

    `images`: how many. `accuracy`, `accuracy_top5` (None with five classes or fewer): fractions. `active_rate`: mean
    of M over the patch tokens of all sites and images; `active_rates`: by site. `gmacs`: 1e9 multiply-accumulates per
    image under its own routes, mean over all images, counted exactly (not estimated from a sample); `gmacs_complete`:
    with every token active.
    """

    images: int
    accuracy: float
    accuracy_top5: float | None
    active_rate: float
    active_rates: dict[str, float]
    gmacs: float
    gmacs_complete: float


@torch.no_grad()
def evaluate(
    model: DynamicModel, batches: Iterable[tuple[Tensor, Tensor]], advance: Callable[[int], Any] = lambda n: None
) -> Report:
    """Runs the model over (images (B, 3, H, W), labels (B,)) in eval mode, which is left as it was.

    With several processes each is given its own batches, at least one; the report is that of all of them.

    Args:
        advance: called with the number of images after each batch, for a progress bar.

    Raises:
        DyTError: no batches.
    """
    training = model.training
    model.eval()
    try:
        return _evaluated(model, batches, advance)
    finally:
        model.train(training)


def _evaluated(model: DynamicModel, batches: Iterable[tuple[Tensor, Tensor]], advance: Callable[[int], Any]) -> Report:
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise DyTError("evaluate: no images were given")
    device = first[0].device
    tops = [1, 5] if model.num_classes > 5 else [1]
    accuracy = [MulticlassAccuracy(model.num_classes, top_k=k, average="micro").to(device) for k in tops]
    meter = _Meter(model, first[0][:1])
    sites = [site.name for site in model.sites]
    sums = torch.zeros(2 + 2 * len(sites), dtype=torch.float64)  # images, macs, active and patches by site
    for images, labels in chain([first], iterator):
        with record(model) as routes:
            logits = model(images)
        for metric in accuracy:
            metric.update(logits.float(), labels)
        sums[0] += len(images)
        sums[1] += meter.macs(images, routes).sum()
        for i, route in enumerate(routes):
            active, patches = route.counts()
            sums[2 + i] += active.sum().cpu()
            sums[2 + len(sites) + i] += patches.sum().cpu()
        advance(len(images))
    sums = summed(sums)
    active, patches = sums[2 : 2 + len(sites)], sums[2 + len(sites) :]
    reached = [float(metric.compute()) for metric in accuracy]
    return Report(
        images=int(sums[0]),
        accuracy=reached[0],
        accuracy_top5=reached[1] if len(reached) > 1 else None,
        active_rate=float(active.sum() / patches.sum().clamp_min(1)),
        active_rates=dict(zip(sites, (active / patches.clamp_min(1)).tolist(), strict=True)),
        gmacs=float(sums[1] / sums[0]) / 1e9,
        gmacs_complete=meter.complete / 1e9,
    )


class _Meter:
    """Exact multiply-accumulates of images from their routes, without counting every forward.

    A pointwise branch costs the same for each active token, so that cost = fixed + sum over sites of tokens x price,
    and the prices follow from one counted forward with one site active at a time. For other branches every batch is
    counted.
    """

    def __init__(self, model: DynamicModel, image: Tensor) -> None:
        self.model = model
        with execution(model, "complete"):
            self.complete = int(count_macs(model, image))
        blocks = [m for m in model.backbone.modules() if isinstance(m, DynamicBlock)]
        self.linear = all(branch in POINTWISE for block in blocks for branch in block.dispatched)
        if self.linear:
            self.fixed, self.prices = self._measured(image)

    def _measured(self, image: Tensor) -> tuple[float, Tensor]:
        with record(self.model) as routes:
            routed = int(count_macs(self.model, image))  # has the routers, which forced masks skip
        tokens = [route.active.shape[1] for route in routes]
        masks = [
            torch.zeros(len(routes) + 1, n, dtype=torch.bool, device=image.device).index_fill_(
                1, torch.arange(route.prefix, device=image.device), True
            )
            for route, n in zip(routes, tokens, strict=True)
        ]
        for i, mask in enumerate(masks):
            mask[i + 1] = True
        with forced(self.model, masks):
            counted = count_macs(self.model, image.expand(len(routes) + 1, *image.shape[1:]))
        patches = torch.tensor([n - route.prefix for route, n in zip(routes, tokens, strict=True)])
        prices = (counted[1:] - counted[0]).double() / patches.clamp_min(1)
        used = torch.stack([route.counts()[0].sum().cpu().double() for route in routes])
        return routed - float(used @ prices), prices

    def macs(self, images: Tensor, routes: list[Route]) -> Tensor:
        """(B,) multiply-accumulates of each image."""
        if not self.linear:
            return count_macs(self.model, images)
        used = torch.stack([route.counts()[0].cpu().double() for route in routes], 1)
        return self.fixed + used @ self.prices
