"""Images for which no decision depends on rounding, so that a law can compare the decisions of two runs."""

from __future__ import annotations

import torch
from torch import Tensor

from dyt.core.route import Route
from dyt.model.dynamic import DynamicModel, record
from dyt.testing.cases import Sample, leaves

NUDGE = 1e-4
"""Of values around 1: far more than rounding, and seldom enough to change who is active."""
TRIES = 5


def steady_images(case: Sample, model: DynamicModel) -> Tensor:
    """The case's first images, of several draws, of which no decision of the model hangs on rounding.

    In the present forward context and mode. Of a case in less than float32, whose numbers are too coarse
    to be nudged, they are the first ones.

    Raises:
        AssertionError: there are none: decisions are drawn, or tokens tie whatever the images, and rounding decides.
    """
    for again in range(TRIES):
        images = case.images(again)
        if case.dtype != "float32" or steady(model, images):
            return images
    raise AssertionError(
        f"who is active changes when the images change by {NUDGE}, in each of {TRIES} batches: it is drawn at random, "
        f"or tokens tie and rounding decides; say draws_at_inference, or break ties by the tokens' places"
    )


@torch.no_grad()
def steady(model: DynamicModel, images: Tensor) -> bool:
    """Whether no decision about these images depends on rounding.

    The images are perturbed a little in both directions; at a tie the two decisions differ. Decisions of reducers are
    not recorded, but a changed one makes the outputs jump: they are then farther from the midpoint than those of a
    smooth function.
    """
    way = NUDGE * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    runs = [_run(model, images + side * way) for side in (0, 1, -1)]
    (routes, here), (ahead, there), (behind, back) = runs
    if not here.isfinite().all():
        return True  # of which whoever looks at the outputs has more to say
    for at, after, before in zip(routes, ahead, behind, strict=True):
        if not (torch.equal(at.active, after.active) and torch.equal(at.active, before.active)):
            return False
    if not model.reductions:
        return True
    bend, change = (there + back - 2 * here).abs().max(), (there - back).abs().max()
    return bool(bend <= 0.1 * change + 1e-5 * here.abs().max())


def _run(model: DynamicModel, images: Tensor) -> tuple[list[Route], Tensor]:
    with record(model) as routes:
        outputs = model(images)
    numbers = [tensor.float().flatten() for _, tensor in leaves(outputs) if tensor.is_floating_point()]
    return routes, torch.cat([*numbers, images.new_zeros(1).float()])
