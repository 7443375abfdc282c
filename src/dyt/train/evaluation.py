"""Accuracy, activation and multiply-accumulates of a model on a split, at inference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from dyt.config.base import Spec
from dyt.core import context
from dyt.core.ranks import summed
from dyt.core.route import Route
from dyt.errors import DyTError
from dyt.measure.macs import backbone_macs, count_macs
from dyt.model.block import POINTWISE, DynamicBlock
from dyt.model.dynamic import DynamicModel, dynamic_of, execution, forced, record
from dyt.tasks.base import Task
from dyt.tasks.kinds import TASKS, AnyDataSpec


class Report(Spec):
    """What `evaluate` measured at inference."""

    images: int
    """Number of inputs: images, or clips of video."""
    accuracy: float | None = None
    """Share of right classes, in [0, 1]. Null for a task other than classification."""
    accuracy_top5: float | None = None
    """Share of inputs whose class is among the five most probable, in [0, 1]. Null with five classes or fewer, and for
    other tasks."""
    metrics: dict[str, float | None] = Field(default_factory=dict)
    """What the task measures besides, by name. Null where the split has nothing to measure (no object of a size)."""
    active_rate: float
    """Share of active patch tokens: the mean of M over all sites and inputs."""
    active_rates: dict[str, float]
    """Share of active patch tokens of each site."""
    gmacs: float
    """1e9 multiply-accumulates per input under its own routes; the mean over all inputs, counted exactly and not
    estimated from a sample."""
    gmacs_complete: float
    """1e9 multiply-accumulates per input with every token active."""
    gmacs_dense: float | None = None
    """1e9 multiply-accumulates per input of the model without dispatchers and adapters. Null in older results."""
    gmacs_head: float | None = None
    """Those of `gmacs_dense` that are the head's. Null in older results."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    advance: Callable[[int], Any] = lambda n: None,
    task: Task = TASKS["classification"],
    spec: AnyDataSpec | None = None,
    classes: Sequence[str] | None = None,
) -> Report:
    """Runs the model over (inputs, targets) in eval mode, which is left as it was.

    With several processes each is given its own batches, at least one; the report is that of all of them.

    Args:
        model: the dynamic model, or what wraps it, of a head for this task.
        batches: (images (B, 3, H, W), labels (B,)), or what else the task's examples are.
        advance: called with the number of inputs after each batch, for a progress bar.
        task: how the model is run on them, and what is measured.
        spec: the task's data spec, for what of the former depends on it.
        classes: names of the model's outputs, for what is measured of each; their numbers by default.

    Raises:
        DyTError: no batches.
    """
    model = dynamic_of(model)
    training = model.training
    model.eval()
    try:
        names = classes or [str(k) for k in range(model.num_classes)]
        return _evaluated(model, batches, advance, task, spec, names)
    finally:
        model.train(training)


def _evaluated(
    model: DynamicModel,
    batches: Iterable[tuple[Any, Any]],
    advance: Callable[[int], Any],
    task: Task,
    spec: AnyDataSpec | None,
    classes: Sequence[str],
) -> Report:
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise DyTError("evaluate: no images were given")
    measure = task.measure(classes, next(model.parameters()).device)
    meter = _Meter(model)
    sites = [site.name for site in model.sites]
    sums = torch.zeros(1 + COUNTED + 2 * len(sites), dtype=torch.float64)  # inputs, macs; active, patches by site
    for inputs, targets in chain([first], iterator):
        with meter.watching() as spent:
            outputs = task.infer(model, inputs, spec)
        measure.update(outputs, targets)
        sums[0] += len(inputs)
        sums[1:] += spent()
        advance(len(inputs))
    sums = summed(sums)
    macs, active, patches = torch.split(sums[1:], [COUNTED, len(sites), len(sites)])
    gmacs, complete, dense, head = (macs / sums[0] / 1e9).tolist()
    found = dict(measure.compute())
    return Report(
        images=int(sums[0]),
        accuracy=found.pop("accuracy", None),
        accuracy_top5=found.pop("accuracy_top5", None),
        metrics=found,
        active_rate=float(active.sum() / patches.sum().clamp_min(1)),
        active_rates=dict(zip(sites, (active / patches.clamp_min(1)).tolist(), strict=True)),
        gmacs=gmacs,
        gmacs_complete=complete,
        gmacs_dense=dense,
        gmacs_head=head,
    )


COUNTED = 4
"""Kinds of multiply-accumulates: under the routes, complete, dense, of the head."""


class _Meter:
    """Exact multiply-accumulates of every forward from its routes, without counting every forward.

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
        """Watches the forwards inside; what is yielded gives, afterwards, (4 + 2 sites,) float64: multiply-accumulates
        of each kind, then active and patch tokens by site.
        """
        calls: list[Tensor] = []
        hook = self.model.register_forward_pre_hook(lambda module, args: calls.append(args[0]))
        try:
            with record(self.model) as routes:
                yield lambda: self._sums(calls, routes)
        finally:
            hook.remove()

    def _sums(self, calls: list[Tensor], routes: list[Route]) -> Tensor:
        sites = len(routes) // max(len(calls), 1)
        found = torch.zeros(COUNTED + 2 * sites, dtype=torch.float64)
        for k, images in enumerate(calls):
            own = [torch.stack(route.counts()).sum(1) for route in routes[k * sites : (k + 1) * sites]]
            active, patches = torch.stack(own, 1).cpu().double() if own else torch.zeros(2, 0, dtype=torch.float64)
            others, fixed, prices = self._of(images)
            cost = len(images) * fixed + active @ prices if self.linear else count_macs(self.model, images).sum()
            found += torch.cat([torch.tensor([float(cost)]), len(images) * others, active, patches])
        return found

    def _of(self, images: Tensor) -> tuple[Tensor, float, Tensor]:
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
            self.known[shape] = (others, *(self._measured(image) if self.linear else (0.0, torch.zeros(0))))
        return self.known[shape]

    def _measured(self, image: Tensor) -> tuple[float, Tensor]:
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
