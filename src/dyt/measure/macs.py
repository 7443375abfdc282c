"""Multiply-accumulates of each image under its own routes, as a FLOP counter sees them executed by `sparse`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from dyt.core import context
from dyt.core.execution import Executor, Mixing, Pointwise
from dyt.core.route import Route, Tokens
from dyt.executors import Sparse
from dyt.executors.sparse import rounded
from dyt.measure.flops import MacCounter
from dyt.model.dynamic import dynamic_of


def tokens_alone() -> Executor:
    """The executor whose multiply-accumulates are the model's: the active tokens, and in a batch of one no row more."""
    return Sparse(exact=True)


class _Metered(Executor):
    """Runs `sparse` and books what each dispatched branch costs to the images that caused it."""

    def __init__(self, counter: MacCounter, images: int) -> None:
        self.rounding, self.exact, self.counter = Sparse(), tokens_alone(), counter
        self.booked, self.dropped = torch.zeros(images, dtype=torch.float64), 0.0

    def pointwise(self, fn: Pointwise, x: Tensor, route: Route) -> Tensor:
        """Every row costs the same, and those that are computed and dropped are booked to nobody."""
        before = self.counter.total
        out = self.rounding.pointwise(fn, x, route)
        active = route.active.sum(1).double().cpu()
        spent, rows = self.counter.total - before, rounded(int(active.sum()), route.active.numel())
        shares = spent * active / max(rows, 1)
        self.dropped += spent - float(shares.sum())
        self.booked += shares.reshape(len(self.booked), len(shares) // max(len(self.booked), 1)).sum(1)  # clips
        return out

    def mixing(self, fn: Mixing, x: Tensor, route: Route) -> Tensor:
        """Image by image, so that no image pays for padding to the length of another."""
        rows = []
        for i in range(x.shape[0]):
            before, this = self.counter.total, torch.tensor([i], device=x.device)

            def of_this(y: Tensor, tokens: Tokens, this: Tensor = this) -> Tensor:
                return fn(y, replace(tokens, images=this))

            alone = Route(route.active[i : i + 1], route.prefix, dense=route.dense, site=route.site)
            rows.append(self.exact.mixing(of_this, x[i : i + 1], alone))
            self.booked[i * len(self.booked) // x.shape[0]] += self.counter.total - before
        return torch.cat(rows)


def count_macs(model: nn.Module, images: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Multiply-accumulates of each image at inference, under its own routes.

    Counts convolutions, matrix products and attention: patch embedding, head, routers and adapters included; norms and
    activations not (the paper's and fvcore's convention). Of a detector the work for each region, whose
    number varies, is left out (`Head.counted`). One forward of the batch in eval mode; `forced` and `complete` of the
    surrounding context hold.

    Args:
        model: the dynamic model, or what wraps it; the train or eval mode of each of its modules is left as it was. A
            compiled one is run uncompiled.
        images: (B, 3, H, W), or what else the backbone takes, such as NaFlexViT's mapping of tensors (B, ...).

    Returns:
        (B,) int64 on the CPU.

    Raises:
        DyTError: not one dynamic model.
        UnsupportedError: the model has an operator that multiplies, of which no formula is known
            (`dyt.measure.flops.register`).
    """
    counter = MacCounter()
    count = len(next(iter(images.values())) if isinstance(images, Mapping) else images)
    metered = _Metered(counter, count)
    model = dynamic_of(model)
    with _evaluating(model), counter, context.changed(model.key, executor=metered, counting=True):
        model(images)
    shared = (counter.total - metered.dropped - metered.booked.sum()) / max(count, 1)
    return (metered.booked + shared).round().long()


def executed_macs(model: nn.Module, images: Tensor | Mapping[str, Tensor]) -> int:
    """Multiply-accumulates that one forward of the whole batch executes, under the executor in force.

    Where `count_macs` counts what each image's tokens need, this counts what is computed for them: with the rows that
    an executor adds and throws away, as `capacity` does, or `sparse` where the images of a batch differ in length. All
    else is as there. What a kernel pads within its own tiles is not seen.

    Args:
        model: the dynamic model, or what wraps it; the train or eval mode of each of its modules is left as it was.
        images: as for `count_macs`.

    Raises:
        UnsupportedError: as `count_macs`, or of the executor in force.
    """
    model = dynamic_of(model)
    with _evaluating(model), MacCounter() as counter, context.changed(model.key, counting=True):
        model(images)
    return counter.total


def backbone_macs(backbone: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of the features of images (B, 3, H, W), as the surrounding context has the model run."""
    with _evaluating(backbone), MacCounter() as counter:
        backbone.forward_features(images)  # type: ignore[operator]
    return counter.total


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
