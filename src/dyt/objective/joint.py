"""What the terms of a fine-tuning step take of all its images together: of all parts that it is split into, all ranks.

A part's forward sees the part's images alone, but the mean rate, and the variance that features are compared by, are
those of the step. So detached sums of every part and rank are joined first, and enter each part's term as constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyt.core import ranks
from dyt.core.route import Route
from dyt.errors import DyTError


@dataclass(frozen=True, eq=False)
class Scatter:
    """Sums of the rows (M, C) that a pass and its teacher have at one site, float32, detached.

    Attributes:
        count: () M.
        mean: (C,) of the teacher's rows.
        spread: () of the squared distances of the teacher's rows from their mean.
        apart: () of the squared distances of the pass's rows from the teacher's.
    """

    count: Tensor
    mean: Tensor
    spread: Tensor
    apart: Tensor


@dataclass(frozen=True, eq=False)
class Sums:
    """Of one part, or of a step that is one.

    Attributes:
        counts: (2, sites) float32, active and all patch tokens.
        scatters: one for each site; none where features are not compared.
    """

    counts: Tensor
    scatters: tuple[Scatter, ...] = ()


@dataclass(frozen=True, eq=False)
class Whole:
    """Of the whole step.

    Attributes:
        copies: parts times ranks. Gradients are averaged over both, so that each one's share is multiplied by it.
        counts: (2, sites) float32, active and all patch tokens.
        apart, variance: (sites,) float32, sums of squares; None where features are not compared.
    """

    copies: int
    counts: Tensor
    apart: Tensor | None = None
    variance: Tensor | None = None


def rows(route: Route | Tensor, patches: bool) -> Tensor:
    """(M, C) float32: what features are compared by: what stands for each image, or every patch token.

    A teacher's may be given as such rows already.
    """
    if isinstance(route, Tensor):
        return route
    return route.patches() if patches else route.summary()


def counted(routes: Sequence[Route]) -> Tensor:
    """(2, sites) float32, active and all patch tokens; differentiable where the routes have gates."""
    active, patches = zip(*(route.counts() for route in routes), strict=True)
    return torch.stack([torch.stack(active).sum(1), torch.stack(patches).sum(1)])


@torch.no_grad()
def sums(routes: Sequence[Route], teacher: Sequence[Route | Tensor] = (), patches: bool = False) -> Sums:
    """Of the routes of a dynamic pass, and where features are compared those of its teacher's."""
    scatters = []
    for route, other in zip(routes, teacher, strict=True) if teacher else ():
        own, target = rows(route, patches), rows(other, patches)
        count, mean = target.new_tensor(len(target)), target.sum(0) / max(len(target), 1)
        scatters.append(Scatter(count, mean, (target - mean).square().sum(), (own - target).square().sum()))
    return Sums(counted(routes).detach(), tuple(scatters))


@torch.no_grad()
def joined(parts: Sequence[Sums]) -> Whole:
    """The sums of a step from those of its parts on this rank; every rank must call, with as many parts.

    Raises:
        DyTError: features of a single image, which have no variance.
    """
    counts, world = ranks.total(torch.stack([part.counts for part in parts]).sum(0))
    copies = world * len(parts)
    if not parts[0].scatters:
        return Whole(copies, counts)
    sites = list(zip(*(part.scatters for part in parts), strict=True))
    flat = []
    for site in sites:
        count = torch.stack([each.count for each in site])
        flat += [count.sum()[None], (count[:, None] * torch.stack([each.mean for each in site])).sum(0)]
    found, _ = ranks.total(torch.cat(flat))
    widths = [width for site in sites for width in (1, len(site[0].mean))]
    pieces = torch.split(found, widths)
    spreads, floors, apart = [], [], []
    for site, count, total in zip(sites, pieces[::2], pieces[1::2], strict=True):
        if count < 2:
            raise DyTError("objective.features compares images: a step needs at least two; use a larger batch")
        mean = total / count
        # the squares around each part's own mean, moved to the mean of all
        spreads.append(torch.stack([s.spread + s.count * (s.mean - mean).square().sum() for s in site]).sum())
        floors.append((1e-6 * total.square().sum() / count).squeeze())  # images that are all alike have no variance
        apart.append(torch.stack([s.apart for s in site]).sum())
    totals, _ = ranks.total(torch.stack([*apart, *spreads]))
    distance, spread = totals.chunk(2)
    return Whole(copies, counts, distance, torch.maximum(spread, torch.stack(floors)))


def shared(own: Tensor, whole: Tensor, count: Tensor, copies: int) -> Tensor:
    """whole / count, with the gradient of the share of it that is `own`.

    Args:
        own: the sum of this part on this rank, differentiable.
        whole: the detached sum of all parts and ranks.
        count: what both are divided by.
        copies: parts times ranks, over which gradients are averaged.
    """
    if copies == 1:
        return own / count
    share = copies * own / count
    return share + (whole / count - share).detach()


def feature_distance(
    dynamic: Sequence[Route], teacher: Sequence[Route | Tensor], patches: bool = False, whole: Whole | None = None
) -> Tensor:
    """() float32: how far the dynamic pass's features are from those of a teacher's pass, which is detached.

    For each site the class token that enters it (the mean patch token where there is none), as the squared distance
    over the variance of the teacher's over the images of all ranks; then the mean over the sites. 0 where the passes
    agree, about 1 where the dynamic pass tells nothing of the image. With `patches` it is every patch token instead,
    and the variance is that over the patches of all images: for heads that read patch tokens.

    Args:
        dynamic: routes of the dynamic pass that kept their tokens.
        teacher: of the teacher's pass of the same images; or the rows (M, C) of each site that it gave.
        patches: compare every patch token.
        whole: of the step that these images are a part of; None where they are all that this rank has of it.

    Raises:
        DyTError: a single image, which has no variance.
    """
    whole = joined([sums(dynamic, teacher, patches)]) if whole is None else whole
    if whole.apart is None or whole.variance is None:
        raise ValueError("the sums of the step were taken without features")
    found = []
    for route, other, apart, variance in zip(dynamic, teacher, whole.apart, whole.variance, strict=True):
        own = (rows(route, patches) - rows(other, patches).detach()).square().sum()
        found.append(shared(own, apart, variance, whole.copies))
    return torch.stack(found).mean()


def mean_over_ranks(total: Tensor, count: Tensor) -> Tensor:
    """total / count over all ranks, (), for sums () of this rank; differentiable in this rank's `total`.

    DistributedDataParallel averages gradients over W ranks, so this rank's share is scaled by W: the averaged gradient
    is then that of the joint mean. Only detached sums are communicated, once, whether or not a token is active here.
    """
    (whole, number), copies = ranks.total(torch.stack([total.detach(), count.detach()]))
    return shared(total, whole, number.clamp_min(1), copies)
