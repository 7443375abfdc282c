"""Activation statistics: how often each site is active over many images, and which patches were, image by image.

Shapes: B images, S sites, P patch tokens in a grid of h x w.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.core.route import Route
from dyt.errors import DyTError, UnsupportedError
from dyt.model.dynamic import dynamic_of, execution, record


@torch.no_grad()
def site_rates(model: nn.Module, batches: Iterable[Tensor]) -> Mapping[str, float]:
    """The mean of M over the patch tokens of all images, site by site, at inference (paper fig. 5).

    Prefix and padding tokens are left out. The model's train or eval mode is left as it was.

    Args:
        model: the dynamic model, or what wraps it.
        batches: images (B, 3, H, W) each.

    Returns:
        Rates in [0, 1] by site name, in forward order.

    Raises:
        DyTError: no batches.
    """
    active: dict[str, float] = {}
    patches: dict[str, float] = {}
    for images in batches:
        for route in routes_of(model, images):
            here, total = route.counts()
            active[route.site] = active.get(route.site, 0.0) + float(here.sum())
            patches[route.site] = patches.get(route.site, 0.0) + float(total.sum())
    if not active:
        raise DyTError("site_rates: no images were given")
    return {site: active[site] / max(patches[site], 1.0) for site in active}


@torch.no_grad()
def routes_of(model: nn.Module, images: Tensor) -> list[Route]:
    """The routes of one forward of images (B, 3, H, W) in eval mode; the model's mode is left as it was."""
    model = dynamic_of(model)
    training = model.training
    model.eval()
    try:
        with record(model) as routes:
            model(images)
    finally:
        model.train(training)
    return routes


def patch_maps(routes: Sequence[Route], size: tuple[int, int]) -> Tensor:
    """Which patches were active at which site (paper figs. 6, 8, 9).

    Args:
        routes: of one forward.
        size: (H, W) of the images in pixels, whose shape tells that of the grid.

    Returns:
        (B, S, h, w) bool on the CPU, on the finest grid of all sites: where stages have fewer and fewer tokens, a token
        of a later one fills the patches that it covers.

    Raises:
        DyTError: no routes.
        UnsupportedError: tokens that are not one per patch of a grid.
    """
    if not routes:
        raise DyTError("patch_maps: no routes were recorded")
    maps = [_map(route, size) for route in routes]
    finest = max((m.shape[1:] for m in maps), key=lambda shape: shape[0] * shape[1])
    # a token of a later stage covers several patches of an earlier one
    filled = [F.interpolate(m.unsqueeze(1).float(), finest, mode="nearest-exact") > 0.5 for m in maps]
    return torch.cat(filled, 1)


def _map(route: Route, size: tuple[int, int]) -> Tensor:
    """(B, h, w) bool on the CPU, at the resolution of the site's own tokens."""
    active = route.active[:, route.prefix :].cpu()
    if route.raster is not None:
        if len(route.raster) != active.shape[1]:
            raise UnsupportedError(f"site {route.site} saw {active.shape[1]} of its {len(route.raster)} patch tokens")
        active = active[:, route.raster]
    return active.reshape(-1, *grid(active.shape[1], size))


def grid(patches: int, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) with h * w = patches, in the proportions of images of `size` (H, W) pixels.

    Raises:
        UnsupportedError: there is no such grid.
    """
    height, width = size
    fitting = [h for h in range(1, patches + 1) if patches % h == 0]
    h = min(fitting, key=lambda h: abs(h * h * width - patches * height), default=0)
    # a patch is square, or nearly so where the image is no whole number of patches wide
    if not h or not 0.5 < (height / h) / (width / (patches // h)) < 2:
        raise UnsupportedError(f"{patches} patch tokens are no grid of the shape of a {height} x {width} image")
    return h, patches // h


def token_counts(model: nn.Module, image: Tensor) -> list[tuple[int, int]]:
    """(N, prefix) of every site, in forward order, for an image (1, 3, H, W): what forced masks have to be like."""
    with execution(model, "complete"):
        return [(route.active.shape[1], route.prefix) for route in routes_of(model, image)]


def random_masks(tokens: Sequence[tuple[int, int]], images: int, rate: float, seed: int = 0) -> list[Tensor]:
    """Random masks for `dyt.forced`: each image has its own, every site the asked rate.

    Args:
        tokens: (N, prefix) of every site, as `token_counts` tells.
        images: B.
        rate: share of the patch tokens that is active, in [0, 1]; met to within one token of the batch.
        seed: of the draw.

    Returns:
        One (B, N) bool tensor per site, prefix included and True there.

    Raises:
        DyTError: a rate outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise DyTError(f"rate is {rate}; it is the share of active patch tokens, from 0 to 1")
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for count, prefix in tokens:
        patches = images * (count - prefix)
        order = torch.randperm(patches, generator=generator)
        active = (order < round(rate * patches)).reshape(images, count - prefix)
        masks.append(torch.cat([active.new_ones(images, prefix), active], 1))
    return masks
