"""What a step is given of a loader's batch: the same at every call, and with the noise that its forward will draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyt.objective.teacher import TeacherFeatures
from dyt.tasks.loading import seeded
from dyt.train.inference import Inference
from dyt.train.randomness import derived
from dyt.train.targets import Targets


class Batch(NamedTuple):
    """A part of a step.

    Attributes:
        images: as the loader gives them.
        labels: likewise.
        teacher: what a kept teacher gave of the images at each site, (M, C) float32; None where the step runs its own.
    """

    images: Tensor
    labels: Any
    teacher: Sequence[Tensor] | None = None


class Batches:
    """Prepares the parts of each step on one process.

    Args:
        inference: knows how images become the model's input, and where it is.
        targets: makes labels what the loss takes, and mixes.
        rank: of the process.
    """

    def __init__(self, inference: Inference, targets: Targets, rank: int) -> None:
        self.inference, self.targets, self.rank = inference, targets, rank

    def prepared(self, batch: Batch, step: int, part: int) -> tuple[Tensor, Any]:
        """Images (B, 3, H, W) and targets of a part of a step, from a batch that is left as it was.

        torch's generators are seeded for the part's forward, alike on all processes (`dyt.core.draws`).
        """
        images, labels = batch.images, batch.labels
        seed = derived(self.inference.run.train.seed, "step", step, part, self.rank)
        images = self.inference.normalized(images)
        with seeded(seed):
            images, targets = self.targets(images, self.inference.task.to(labels, self.inference.accelerator.device))
        torch.manual_seed(derived(self.inference.run.train.seed, "step", step, part, 0))
        return images, targets

    def taught(
        self, loaded: Iterable[Any], plan: Iterable[list[tuple[int, int]]], kept: TeacherFeatures | None
    ) -> Iterator[Batch]:
        """The loader's batches, of the examples (position, seed) of the plan, with what a kept teacher gave of them."""
        device = self.inference.accelerator.device
        for (images, labels), keys in zip(loaded, plan, strict=True):
            rows = None if kept is None else kept.rows([position for position, _ in keys], device)
            yield Batch(images, labels, rows)
