"""Multiply-accumulates of each image under its own routes, as a FLOP counter sees them executed by `sparse`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dyt import steer
from dyt.executors import Sparse
from dyt.executors.base import Executor, Mixing, Pointwise
from dyt.executors.rows import rounded
from dyt.model import DynamicModel
from dyt.route import Route, Tokens


class _Metered(Executor):
    """Runs `sparse` and books what each dispatched branch costs to the images that caused it."""

    def __init__(self, counter: FlopCounterMode, images: int) -> None:
        self.rounding, self.exact, self.counter = Sparse(), Sparse(exact=True), counter
        self.booked, self.dropped = torch.zeros(images, dtype=torch.float64), 0.0

    def spent(self) -> int:
        """Multiply-accumulates so far; the counter counts two operations each."""
        return int(self.counter.get_total_flops()) // 2

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        """Every row costs the same, and those that are computed and dropped are booked to nobody."""
        before = self.spent()
        out = self.rounding.pointwise(fn, x, route)
        active = route.active.sum(1).double().cpu()
        rows = rounded(int(active.sum()), route.active.numel())
        row = (self.spent() - before) / max(rows, 1)
        self.dropped += row * (rows - float(active.sum()))
        shares = row * active
        self.booked += shares.reshape(len(self.booked), len(shares) // max(len(self.booked), 1)).sum(1)  # clips
        return out

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        """Image by image, so that no image pays for padding to the length of another."""
        rows = []
        for i in range(x.shape[0]):
            before, this = self.spent(), torch.tensor([i], device=x.device)

            def of_this(y: Tensor, tokens: Tokens, this: Tensor = this) -> Tensor:
                return fn(y, replace(tokens, images=this))

            alone = Route(route.active[i : i + 1], route.prefix, dense=route.dense, site=route.site)
            rows.append(self.exact.mixing(of_this, x[i : i + 1], alone))
            self.booked[i * len(self.booked) // x.shape[0]] += self.spent() - before
        return torch.cat(rows)


def count_macs(model: DynamicModel, images: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Multiply-accumulates of each image at inference, under its own routes.

    Counts convolutions, matrix products and attention: patch embedding, head, routers and adapters included; norms and
    activations not (the paper's and fvcore's convention). Of a detector the work for each region, whose
    number varies, is left out (`Head.counted`). One forward of the batch in eval mode; `forced` and `complete` of the
    surrounding context hold.

    Args:
        model: the dynamic model; the train or eval mode of each of its modules is left as it was.
        images: (B, 3, H, W), or what else the backbone takes, such as NaFlexViT's mapping of tensors (B, ...).

    Returns:
        (B,) int64 on the CPU.
    """
    counter = FlopCounterMode(display=False)
    count = len(next(iter(images.values())) if isinstance(images, Mapping) else images)
    metered = _Metered(counter, count)
    with _evaluating(model), counter, steer.steered(model.key, executor=metered):
        model.head.counted(model.backbone, images)
    shared = (metered.spent() - metered.dropped - metered.booked.sum()) / max(count, 1)
    return (metered.booked + shared).round().long()


def backbone_macs(backbone: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of the features of images (B, 3, H, W), as the surrounding context has the model run."""
    counter = FlopCounterMode(display=False)
    with _evaluating(backbone), counter:
        backbone.forward_features(images)  # type: ignore[operator]
    return int(counter.get_total_flops()) // 2


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode, without gradients; each module's own mode comes back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
