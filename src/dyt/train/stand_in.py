"""Starting the stand-ins as the best linear maps of their rank from a token to what its branch gives of it.

Shapes: M tokens of all images, C channels, d the stand-in's rank.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dyt.adapters.low_rank import LowRank
from dyt.core import context, ranks
from dyt.core.execution import Mixing, Pointwise
from dyt.core.offloading import refuse_absent
from dyt.core.route import Route
from dyt.errors import DyTError
from dyt.executors.masked import Masked
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.model.site import Site

RIDGE = 1e-3
"""Of the fit, as a share of the mean variance of the channels."""


@torch.no_grad()
def start_stand_ins(model: nn.Module, batches: Iterable[Tensor], *, alike: bool = False) -> dict[str, float]:
    """Fits each stand-in to its branch in the pretrained model, every token active, by reduced-rank regression.

    The map W of rank d that leaves the least squared error: ordinary (ridge) regression, projected onto the d
    directions in which its fitted values vary most. Its mean is in the bias, so that a skipped token has its branch's
    mean output at least.

    Args:
        model: the dynamic model, or what wraps it; left in the mode that it is in. Changes the stand-ins alone.
        batches: images (B, 3, H, W).
        alike: whether all processes are given the same images, so that nothing is summed over them.

    Returns:
        By site, the share of the variance of the branch's output that its stand-in tells, in [0, 1].

    Raises:
        DyTError: no images, a stand-in other than `low_rank`, none at all, or not one dynamic model.
        UnsupportedError: weights that are offloaded or sharded.
    """
    model = dynamic_of(model)
    refuse_absent(model, "start_stand_ins")
    stand_ins = [_low_rank(site) for site in model.sites]
    watching = _Watching(model)
    training = model.training
    model.eval()
    try:
        for images in batches:
            watching.begin()
            with context.changed(model.key, complete=True, plain=True, executor=watching):
                model.forward_features(model.head.frames(images))
    finally:
        model.train(training)
    if not watching.fits:
        raise DyTError("start_stand_ins: no images were given")
    return {
        site.name: fit.put(stand_in, alike)
        for site, stand_in, fit in zip(model.sites, stand_ins, watching.fits, strict=True)
    }


def _low_rank(site: Site) -> LowRank:
    if not isinstance(site.stand_in, LowRank):
        there = "no stand-in" if site.stand_in is None else f"a {type(site.stand_in).__name__}"
        raise DyTError(
            f"site {site.name} has {there}, and one is started in closed form where it is low_rank: set "
            f"stand_in: {{type: low_rank}}, or train.stand_in_start: zero"
        )
    return site.stand_in


class _Watching(Masked):
    """`masked`, which takes in what each site's branch is given and gives, in the sites' order."""

    def __init__(self, model: DynamicModel) -> None:
        self.model, self.fits, self.next = model, list[_Fit](), 0

    def begin(self) -> None:
        """Another forward."""
        self.next = 0

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        return self._seen(super().pointwise(fn, x, route), x, route)

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        return self._seen(super().mixing(fn, x, route), x, route)

    def _seen(self, out: Tensor, x: Tensor, route: Route) -> Tensor:
        site = self.model.sites[self.next]
        assert isinstance(site.stand_in, LowRank)
        if self.next == len(self.fits):
            self.fits.append(_Fit(x.shape[-1]))
        block = next(block for block in self.model.dynamic_blocks if site in block.sites.values())
        branch = next(name for name, each in block.sites.items() if each is site)
        read = block.family.normalised(block, branch, x) if site.stand_in.input == "normalised" else x
        active = route.active[:, route.prefix :]
        self.fits[self.next].add(read[:, route.prefix :][active], out[:, route.prefix :][active])
        self.next += 1
        return out


class _Fit:
    """Reduced-rank regression from sums, so that tokens need not be kept."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.moments = torch.zeros(2 * channels + 1, 2 * channels + 1, dtype=torch.float64)  # of (x, y, 1)

    def add(self, x: Tensor, y: Tensor) -> None:
        rows = torch.cat([x, y, torch.ones_like(x[:, :1])], 1).cpu().double()
        self.moments += rows.T @ rows

    def put(self, stand_in: LowRank, alike: bool) -> float:
        """Writes the map into the stand-in; the share of the variance of y that it tells."""
        moments = ranks.first(self.moments if alike else ranks.summed(self.moments))
        channels, count = self.channels, moments[-1, -1]
        mean = moments[-1, :-1] / count
        spread = moments[:-1, :-1] / count - mean[:, None] * mean[None, :]
        xx, xy, yy = spread[:channels, :channels], spread[:channels, channels:], spread[channels:, channels:]
        variance = yy.trace()
        ridge = RIDGE * xx.diagonal().mean().clamp_min(1e-12)
        full = torch.linalg.solve(xx + ridge * torch.eye(channels, dtype=torch.float64), xy)
        directions = torch.linalg.eigh(full.T @ xx @ full).eigenvectors[:, -stand_in.down.out_features :]
        down = (full @ directions).T
        error = (
            variance - 2 * (xy @ directions @ down).trace() + (down @ xx @ down.T).trace()
        )  # directions: orthonormal
        rank = len(down)
        stand_in.down.weight[:rank].copy_(down)
        stand_in.down.bias[:rank].copy_(-(down @ mean[:channels]))
        stand_in.up.weight.zero_()
        stand_in.up.weight[:, :rank].copy_(directions)
        stand_in.up.bias.copy_(mean[channels:])
        return float(1 - error / variance) if variance > 1e-12 else 0.0
