"""What an evaluation counts of every forward: multiply-accumulates, from its routes, and active tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dyt.core import context
from dyt.core.route import Route
from dyt.measure.macs import backbone_macs, count_macs
from dyt.model.block import POINTWISE, DynamicBlock
from dyt.model.dynamic import DynamicModel, execution, forced, record

COUNTED = 4
"""Kinds of multiply-accumulates: under the routes, complete, dense, of the head."""


class Meter:
    """Exact multiply-accumulates of every forward of a model from its routes, without counting every forward.

    A pointwise branch costs the same for each active token, so that cost = fixed + sum over sites of tokens x price,
    and the prices follow from one counted forward with one site active at a time, for each shape of inputs. For other
    branches every forward is counted.
    """

    def __init__(self, model: DynamicModel) -> None:
        self.model = model
        blocks = [m for m in model.backbone.modules() if isinstance(m, DynamicBlock)]
        self.linear = all(branch in POINTWISE for block in blocks for branch in block.dispatched)
        self.known: dict[tuple[int, ...], tuple[Tensor, float, Tensor]] = {}

    @contextmanager
    def watching(self) -> Iterator[Callable[[], Tensor]]:
        """Watches the forwards inside.

        Yields:
            What gives afterwards, as (COUNTED + 2 sites,) float64, the multiply-accumulates of each kind over all
            inputs, then active and patch tokens by site.
        """
        calls: list[Tensor] = []
        hook = self.model.register_forward_pre_hook(lambda module, args: calls.append(args[0]))
        try:
            with record(self.model) as routes:
                yield lambda: self._counts(calls, routes)
        finally:
            hook.remove()

    def _counts(self, calls: list[Tensor], routes: list[Route]) -> Tensor:
        sites = len(routes) // max(len(calls), 1)
        sums = torch.zeros(COUNTED + 2 * sites, dtype=torch.float64)
        for k, images in enumerate(calls):
            own = [torch.stack(route.counts()).sum(1) for route in routes[k * sites : (k + 1) * sites]]
            active, patches = torch.stack(own, 1).cpu().double() if own else torch.zeros(2, 0, dtype=torch.float64)
            others, fixed, prices = self._costs(images)
            cost = len(images) * fixed + active @ prices if self.linear else count_macs(self.model, images).sum()
            sums += torch.cat([torch.tensor([float(cost)]), len(images) * others, active, patches])
        return sums

    def _costs(self, images: Tensor) -> tuple[Tensor, float, Tensor]:
        """Of one input of this shape: complete, dense, the head's; what is always computed; a token's price by site."""
        shape = tuple(images.shape[1:])
        if shape not in self.known:
            image = images[:1]
            with execution(self.model, "complete"):
                complete = int(count_macs(self.model, image))
            with context.changed(self.model.key, complete=True, plain=True):
                dense = int(count_macs(self.model, image))
                head = dense - backbone_macs(self.model.backbone, self.model.head.frames(image))
            others = torch.tensor([complete, dense, head], dtype=torch.float64)
            self.known[shape] = (others, *(self._prices(image) if self.linear else (0.0, torch.zeros(0))))
        return self.known[shape]

    def _prices(self, image: Tensor) -> tuple[float, Tensor]:
        with record(self.model) as routes:
            routed = int(count_macs(self.model, image))  # has the routers, which forced masks skip
        tokens, rows = [route.active.shape[1] for route in routes], [len(route.active) for route in routes]  # frames
        masks = [
            torch.zeros(len(routes) + 1, n, dtype=torch.bool, device=image.device).index_fill_(
                1, torch.arange(route.prefix, device=image.device), True
            )
            for route, n in zip(routes, tokens, strict=True)
        ]
        for i, mask in enumerate(masks):
            mask[i + 1] = True
        with forced(self.model, [mask.repeat_interleave(n, 0) for mask, n in zip(masks, rows, strict=True)]):
            counted = count_macs(self.model, image.expand(len(routes) + 1, *image.shape[1:]))
        patches = torch.tensor([r * (n - x.prefix) for x, n, r in zip(routes, tokens, rows, strict=True)])
        prices = (counted[1:] - counted[0]).double() / patches.clamp_min(1)
        used = torch.stack([route.counts()[0].sum().cpu().double() for route in routes])
        return routed - float(used @ prices), prices
