"""Accuracy, activation and multiply-accumulates of a model on a split, at inference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from pydantic import Field
from torch import nn

from dyt.config.base import Spec
from dyt.core.ranks import summed
from dyt.deprecated import renamed
from dyt.errors import DyTError
from dyt.measure.meter import COUNTED, Meter
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.tasks.base import Task
from dyt.tasks.kinds import TASKS, AnyDataSpec

__getattr__ = renamed(__name__, {"Report": "Evaluation"})


class Evaluation(Spec):
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
) -> Evaluation:
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
) -> Evaluation:
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise DyTError("evaluate: no images were given")
    measure = task.measure(classes, next(model.parameters()).device)
    meter = Meter(model)
    sites = [site.name for site in model.sites]
    sums = torch.zeros(1 + COUNTED + 2 * len(sites), dtype=torch.float64)  # inputs, macs; active, patches by site
    for inputs, targets in chain([first], iterator):
        with meter.watching() as spent:
            outputs = task.infer(model, inputs, spec)
        measure.update(outputs, task.reference(model, inputs, targets, spec))
        sums[0] += len(inputs)
        sums[1:] += spent()
        advance(len(inputs))
    sums = summed(sums)
    macs, active, patches = torch.split(sums[1:], [COUNTED, len(sites), len(sites)])
    gmacs, complete, dense, head = (macs / sums[0] / 1e9).tolist()
    metrics = dict(measure.compute())
    return Evaluation(
        images=int(sums[0]),
        accuracy=metrics.pop("accuracy", None),
        accuracy_top5=metrics.pop("accuracy_top5", None),
        metrics=metrics,
        active_rate=float(active.sum() / patches.sum().clamp_min(1)),
        active_rates=dict(zip(sites, (active / patches.clamp_min(1)).tolist(), strict=True)),
        gmacs=gmacs,
        gmacs_complete=complete,
        gmacs_dense=dense,
        gmacs_head=head,
    )
