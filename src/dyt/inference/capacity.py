"""How much capacity the executor of that name needs at each site, from how many tokens of sample images are active."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from dyt.assembly.allocation import capacities_of
from dyt.config.spec import CapacitySpec, parse
from dyt.errors import DyTError
from dyt.model.block import POINTWISE
from dyt.model.dynamic import DynamicModel, dynamic_of, record


def calibrate_capacity(
    model: nn.Module,
    batches: Iterable[Tensor],
    quantile: float = 1.0,
    margin: float = 0.05,
    together: int = 1,
    overflow: Literal["dense", "nan"] = "dense",
) -> tuple[float, ...]:
    """Sets the capacity of each site for the executor `capacity`, from the tokens that are active in these images.

    A site gets the `quantile` of the images' numbers of active tokens, prefix included, and `margin` of it more, but at
    most all tokens. The results never depend on it: where there is no room, the branch is run densely, or, with
    `overflow="nan"`, the images concerned come out as NaN. The capacity is part of `model.spec`, so that it is saved.

    Args:
        model: the dynamic model, or what wraps it; in whatever mode, which is left as it was. Its dispatchers decide as
            at inference.
        batches: images (B, 3, H, W) each.
        quantile: in [0, 1]; 1 gives room for the image with most active tokens.
        margin: at least 0.
        together: how many images will run in one batch. Pointwise branches share the batch's capacity, so that they
            need less of it per image: there the mean over so many consecutive images counts as one. Attention and layer
            branches have an image's capacity each.
        overflow: what happens where more tokens are active, as in `CapacitySpec`.

    Returns:
        For each site, its share of the tokens, in (0, 1].

    Raises:
        DyTError: no images, fewer than `together`, a number outside its range, images of several sizes, or not
            one dynamic model.
    """
    if not (0 <= quantile <= 1 and margin >= 0 and together >= 1):
        raise DyTError(
            f"calibrate_capacity needs quantile from 0 to 1, margin >= 0 and together >= 1; given {quantile}, {margin} "
            f"and {together}"
        )
    model = dynamic_of(model)
    counts, sizes = _counted(model, batches)
    shares = []
    for site, active, size in zip(model.sites, counts, sizes, strict=True):
        group = together if site.name.rpartition(".")[2] in POINTWISE else 1
        if len(active) < group:
            raise DyTError(f"calibrate_capacity: {len(active)} images given, and together is {together}; give more")
        means = active[: len(active) // group * group].reshape(-1, group).mean(1)
        needed = float(means.quantile(quantile, interpolation="higher")) * (1 + margin)
        shares.append(min(max(math.ceil(needed - 1e-6), site.prefix, 1), size) / size)
    capacity = parse(CapacitySpec, {"share": tuple(shares), "overflow": overflow})
    model.spec = model.spec.model_copy(update={"capacity": capacity})
    for site, given in zip(model.sites, capacities_of(model.spec, len(shares)), strict=True):
        site.capacity = given
    return tuple(shares)


@torch.no_grad()
def _counted(model: DynamicModel, batches: Iterable[Tensor]) -> tuple[list[Tensor], list[int]]:
    """For each site: active tokens of every image, (images,) float64; and how many tokens an image has."""
    found: list[list[Tensor]] = [[] for _ in model.sites]
    sizes: list[set[int]] = [set() for _ in model.sites]
    training = model.training
    model.eval()
    try:
        for images in batches:
            with record(model) as routes:
                model(images)
            for counts, size, route in zip(found, sizes, routes, strict=True):
                counts.append(route.active.sum(1).double().cpu())
                size.add(route.active.shape[1])
    finally:
        model.train(training)
    if not sizes or not sizes[0]:
        raise DyTError("calibrate_capacity: no images were given")
    if any(len(size) > 1 for size in sizes):
        raise DyTError("calibrate_capacity: the images have several sizes; give images of the one that will be run")
    return [torch.cat(counts) for counts in found], [size.pop() for size in sizes]
