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
    """What `evaluate` found.

    `images`: how many inputs (clips, of video). `accuracy`, `accuracy_top5` (None with five classes or fewer): of
    classification, fractions; None of another task. `metrics`: what the task measures beside them, by name, None of
    what the split has nothing to measure of (objects of a size that none has).
    `active_rate`: mean of M over the patch tokens of all sites and inputs; `active_rates`: by site. `gmacs`: 1e9
    multiply-accumulates per input under its own routes, mean over all inputs, counted exactly (not estimated from a
    sample); `gmacs_complete`: with every token active; `gmacs_dense`: without adapters too, as
    the model was before; `gmacs_head`: those of them that are not the backbone's. None in older results.
    """

    images: int
    accuracy: float | None = None
    accuracy_top5: float | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)
    active_rate: float
    active_rates: dict[str, float]
    gmacs: float
    gmacs_complete: float
    gmacs_dense: float | None = None
    gmacs_head: float | None = None


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
        measure.update(outputs, targets)
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
