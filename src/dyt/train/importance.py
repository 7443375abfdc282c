"""Starting the routers from what each token's branch is worth to the pretrained model, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dyt.core import context, ranks
from dyt.core.offloading import refuse_absent
from dyt.core.route import Route, mean_token
from dyt.core.scores import linear_scores
from dyt.errors import DyTError
from dyt.executors.masked import Masked
from dyt.model.dynamic import DynamicModel, dynamic_of, execution, record
from dyt.model.site import Site
from dyt.objective.thresholds import threshold_for, thresholds_for, thresholds_of

FLOOR = 1e-6
"""Importance below this share of the mean one counts as this, since its logarithm is what is fitted."""
RIDGE = 1e-3
"""Of the fit, as a share of the mean variance of the channels."""


def token_importance(
    model: nn.Module, images: Tensor, probes: int, generator: torch.Generator
) -> tuple[list[Route], list[Tensor]]:
    """How much the features move, to first order, when a token's branch is left out.

    With every token active, let m be the multiplier of one token's branch output (M of paper eq. 2), 1 now, and f the
    features before the head: pooled, or all tokens where the head reads patch tokens. The importance is the squared
    norm of df/dm, estimated from random signs v as the mean of (d(v.f)/dm)^2: one backward pass a probe tells it for
    every token of every site.

    Args:
        model: the dynamic model, or what wraps it; in eval mode; nothing of it changes.
        images: (B, 3, H, W), or what the head takes in their place.
        probes: random sign vectors to average, at least 1.
        generator: of the signs, on the CPU.

    Returns:
        The complete pass's routes, with the tokens that entered; and for each (B, P) float32, zero at padding tokens.
    """
    model = dynamic_of(model)
    with (
        torch.enable_grad(),
        context.changed(model.key, probe=True, keep_tokens=True, executor=Masked()),
        record(model) as routes,
    ):
        features = model.forward_features(model.head.frames(images))
        if not model.head.reads_patches:
            features = model.forward_head(features, pre_logits=True)
        features = features.float()
    gates = [route.gate for route in routes if route.gate is not None]
    found = [torch.zeros_like(route.active[:, route.prefix :], dtype=torch.float32) for route in routes]
    for probe in range(probes):
        signs = torch.randint(0, 2, features.shape, generator=generator).to(features) * 2 - 1
        along = torch.autograd.grad((features * signs).sum(), gates, retain_graph=probe + 1 < probes, allow_unused=True)
        for importance, route, grad in zip(found, routes, along, strict=True):
            if grad is not None:  # a branch that the features never read
                importance += grad[:, route.prefix :].square() / probes
    return routes, found


def start_routers(
    model: nn.Module, batches: Iterable[Tensor], rate: float, probes: int = 2, seed: int = 0, *, alike: bool = False
) -> dict[str, float]:
    """Fits each router to the logarithm of its tokens' importance, and sets all so that `rate` of the tokens is active.

    A linear map of the tokens tells much of it (the share of the variance is returned), and one scale for all sites
    makes the routers' start an allocation over depth as well: early blocks keep most tokens, and where the patch
    tokens are never read again none is kept. The fit is ridge regression in closed form, over all processes' images.

    Args:
        model: the dynamic model, or what wraps it; left in the mode that it is in. Changes the routers' weights and
            biases, and sets the thresholds: so near to 0 that they do little more than break ties (`dyt.core.scores`).
        batches: images (B, 3, H, W), gone through twice.
        rate: the share of the patch tokens, over all sites and images, that is active at the start, in (0, 1].
        probes: backward passes a batch (`token_importance`).
        seed: of the probes.
        alike: whether all processes are given the same images and seed, so that the start does not depend on their
            number: then nothing is summed over them, and the first one's routers are those of all.

    Returns:
        By site, the share of the variance of the log importance that the router tells, in [0, 1].

    Raises:
        DyTError: no images, a rate outside (0, 1], dispatchers without a linear router, or not one dynamic model.
        UnsupportedError: weights that are offloaded or sharded.
    """
    if not 0 < rate <= 1:
        raise DyTError(f"start_routers: rate is {rate}; it must be above 0 and at most 1")
    model = dynamic_of(model)
    refuse_absent(model, "start_routers")
    routers = [router_of(site) for site in model.sites]
    fits = [_Fit(router.in_features) for router in routers]
    generator, training = torch.Generator().manual_seed(seed), model.training
    model.eval()
    try:
        mean: float | None = None
        for images in batches:
            routes, found = token_importance(model, images, probes, generator)
            if mean is None:
                mean = _mean(found, alike)
            for fit, site, route, importance in zip(fits, model.sites, routes, found, strict=True):
                fit.add(*_pairs(site, route, importance, FLOOR * mean))
        if mean is None:
            raise DyTError("start_routers: no images were given")
        explained = {}
        for site, router, fit in zip(model.sites, routers, fits, strict=True):
            weight, bias, share = fit.solved(alike)
            explained[site.name] = share
            with torch.no_grad():
                router.weight.copy_(weight[None])
                router.bias.copy_(bias)
        _shift(model, routers, batches, rate, alike)
    finally:
        model.train(training)
    return explained


def router_of(site: Site) -> nn.Linear:
    """The site's linear router.

    Raises:
        DyTError: its dispatcher has none.
    """
    router = getattr(site.dispatcher, "router", None)
    if not isinstance(router, nn.Linear):
        raise DyTError(
            f"site {site.name} has no linear router to start from importance: its dispatcher is a "
            f"{type(site.dispatcher).__name__}; use a learned dispatcher, or train.router_start: random"
        )
    return router


class _Fit:
    """Ridge regression from sums, so that tokens need not be kept."""

    def __init__(self, channels: int) -> None:
        self.moments = torch.zeros(channels + 2, channels + 2, dtype=torch.float64)  # of (x, target, 1)

    def add(self, x: Tensor, target: Tensor) -> None:
        rows = torch.cat([x, target[:, None], torch.ones_like(target)[:, None]], 1).cpu().double()
        self.moments += rows.T @ rows

    def solved(self, alike: bool) -> tuple[Tensor, Tensor, float]:
        """(C,) weight, () bias, share of the variance explained."""
        moments = self.moments if alike else ranks.summed(self.moments)
        moments = ranks.first(moments)  # the same on every process, to the last bit
        count = moments[-1, -1]
        mean = moments[-1, :-1] / count
        spread = moments[:-1, :-1] / count - mean[:, None] * mean[None, :]
        covariance, towards, variance = spread[:-1, :-1], spread[:-1, -1], float(spread[-1, -1])
        ridge = RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
        weight = torch.linalg.solve(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64), towards)
        explained = 2 * weight @ towards - weight @ covariance @ weight
        return weight, mean[-1] - mean[:-1] @ weight, float(explained) / variance if variance > 1e-9 else 0.0


def _pairs(site: Site, route: Route, importance: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """What the router reads, (M, C), and the log importance that it is to tell, (M,)."""
    assert route.entered is not None
    patches = route.entered.detach()[:, route.prefix :].float()
    real = torch.ones_like(importance, dtype=torch.bool)
    if route.padding is not None:
        real = ~route.padding[:, route.prefix :]
    if site.dispatcher.level == "sample":
        share = real.float() / real.sum(1, keepdim=True).clamp_min(1)
        patches, importance = (patches * share[..., None]).sum(1), (importance * share).sum(1)
    else:
        patches, importance = patches[real], importance[real]
    return patches, importance.clamp_min(floor).log()


def _mean(found: Sequence[Tensor], alike: bool) -> float:
    sums = torch.stack([torch.stack([f.sum() for f in found]).sum().cpu().double(), _count(found)])
    total, count = sums if alike else ranks.summed(sums)
    return max(float(total / count), 1e-30)


def _count(found: Sequence[Tensor]) -> Tensor:
    return torch.tensor(sum(f.numel() for f in found), dtype=torch.float64)


@torch.no_grad()
def _shift(
    model: DynamicModel, routers: Sequence[nn.Linear], batches: Iterable[Tensor], rate: float, alike: bool
) -> None:
    """One shift for all routers' biases, and one threshold near 0, above which `rate` of these images' tokens are.

    The shift alone would not do where logits tie, as those of a router that tells nothing.
    """
    found: list[list[Route]] = []
    for images in batches:
        with execution(model, "complete"), context.changed(model.key, keep_tokens=True), record(model) as routes:
            model(images)
        scored = zip(model.sites, routers, routes, strict=True)
        found.append([_scored(site, router, route) for site, router, route in scored])
    shift, moved = _threshold(_values(model, found), rate, alike), []
    for router in routers:
        before = router.bias.double()
        router.bias.copy_(before - shift)
        moved.append((before - router.bias.double()).float())
    found = [[_lowered(route, by) for route, by in zip(routes, moved, strict=True)] for routes in found]
    threshold = _threshold(_values(model, found), rate, alike)
    for site in model.sites:
        site.threshold.copy_(threshold)


def _threshold(values: Sequence[Tensor], rate: float, alike: bool) -> Tensor:
    """() float32, the same on every process."""
    return ranks.first(threshold_for(torch.cat(list(values)), rate)) if alike else thresholds_for(values, rate)[0]


def _values(model: DynamicModel, found: Sequence[Sequence[Route]]) -> list[Tensor]:
    """For each site, what its threshold is compared with in these forwards' routes."""
    return [
        torch.cat([thresholds_of(route, site) for route in routes])
        for site, routes in zip(model.sites, zip(*found, strict=True), strict=True)
    ]


def _lowered(route: Route, by: Tensor) -> Route:
    assert route.logits is not None
    return replace(route, logits=route.logits - by)


def _scored(site: Site, router: nn.Linear, route: Route) -> Route:
    """The complete pass's route with the logits (B, P) that its dispatcher would have given, without its tokens."""
    assert route.entered is not None
    patches, hidden = route.entered[:, route.prefix :], None
    if route.padding is not None:
        hidden = route.padding[:, route.prefix :]
    sample = site.dispatcher.level == "sample"
    logits = linear_scores(router, mean_token(patches, hidden) if sample else patches)
    return replace(route, logits=logits.expand(patches.shape[:2]), entered=None)
