"""What a run does with its model beside training it: reads images, sets thresholds, evaluates."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dyt.inference.budgets import calibrate_budgets
from dyt.inference.thresholds import calibrate_thresholds
from dyt.model.dynamic import DynamicModel
from dyt.tasks.base import Examples
from dyt.tasks.kinds import task_of
from dyt.tasks.layouts import Split
from dyt.tasks.loading import loader
from dyt.tasks.preparation import Preparation
from dyt.train.evaluation import Evaluation, evaluate
from dyt.train.importance import start_routers
from dyt.train.progress import Bar
from dyt.train.randomness import derived, permutation
from dyt.train.spec import RunSpec
from dyt.train.stand_in import start_stand_ins
from dyt.train.workers import worker_count

CALIBRATION_IMAGES = 1024
"""At most so many training images, or clips of so many frames in all, are looked at to set thresholds."""
BUDGET_IMAGES = 256
"""At most so many for the thresholds of many rates: some twenty passes over 1,024 cost half as much as the training."""
START_IMAGES, START_BATCH = 256, 32
"""At most so many are looked at to start the routers; their graphs are kept, hence small batches."""


class _Again:
    """An iterable that can be gone through more than once, from a function that begins it."""

    def __init__(self, begin: Callable[[], Iterator[Tensor]]) -> None:
        self.begin = begin

    def __iter__(self) -> Iterator[Tensor]:
        return self.begin()


class Inference:
    """A run's model on images prepared as at inference, shared among the processes.

    Args:
        check: called between batches; raises when the run is to stop.
        awaited: given batches and `check`, the batches, with waits that end when the run is to stop.
    """

    def __init__(
        self,
        run: RunSpec,
        model: DynamicModel,
        accelerator: Accelerator,
        bar: Bar,
        check: Callable[[], None],
        awaited: Callable[[Generator[Any], Callable[[], None]], Generator[Any]],
    ) -> None:
        self.run, self.model, self.accelerator, self.bar, self.check = run, model, accelerator, bar, check
        self.awaited = awaited
        self.task = task_of(run.data)
        self.task.check(model, run.data)
        self.preparation = Preparation.of(model.backbone, run.data.size)
        self.workers = worker_count(run.data.workers)
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.frames = len(model.head.frames(torch.empty(1, *model.head.input_shape((1, 1)))))  # of an input

    def images(self, split: Split, training: bool, again: bool) -> Examples:
        """The split's examples, decoded into memory if they are used again and are worth it."""
        images = self.task.examples(self.run.data, split, self.preparation, training)
        if again and images.worth_caching():
            with self.bar.task(f"reading {split.name}", len(split)) as task:

                def advance() -> None:
                    self.bar.advance(task)
                    self.check()

                images.fill(self.workers, advance)
        return images

    def normalized(self, images: Tensor) -> Tensor:
        """(B, C, H, W) from a loader, as the model wants it, on its device."""
        return self.preparation.normalized(images.to(self.accelerator.device, non_blocking=True))

    def calibrated(self, split: Split, rate: float | Sequence[float]) -> float:
        """Sets the thresholds on images of the split, for one rate or one for each site; the rate that was reached."""
        with self._held(split, CALIBRATION_IMAGES // self.frames, self.task.batch, "calibrating") as batches:
            return calibrate_thresholds(self.model, batches, rate)

    def find_budgets(self, split: Split) -> None:
        """Finds the thresholds of all rates on images of the split, and keeps them with the model."""
        with self._held(split, BUDGET_IMAGES // self.frames, self.task.batch, "calibrating budgets") as batches:
            calibrate_budgets(self.model, batches)

    def started(self, split: Split, rate: float) -> dict[str, float]:
        """Starts the routers from importance on images of the split; by site, how much of it they tell.

        Every process goes through all of these few images, so that the start is the same on any number of them.
        """
        count, batch = START_IMAGES // self.frames, min(START_BATCH, self.task.batch)
        with self._held(split, count, batch, "starting the routers", alike=True) as batches:
            seed = derived(self.run.train.seed, "importance", 0)
            return start_routers(self.model, batches, rate, seed=seed, alike=True)

    def stood_in(self, split: Split) -> dict[str, float]:
        """Starts the stand-ins on images of the split, as `started` does the routers; by site, how much they tell."""
        count = START_IMAGES // self.frames
        with self._held(split, count, self.task.batch, "starting the stand-ins", alike=True) as batches:
            return start_stand_ins(self.model, batches, alike=True)

    @contextmanager
    def _held(self, split: Split, count: int, batch: int, what: str, alike: bool = False) -> Iterator[Iterable[Tensor]]:
        """At most `count` images of the split, prepared as at inference, to be gone through more than once.

        Args:
            alike: whether every process is given all of them, in place of its share.
        """
        images = self.task.sample(self.run.data, split, self.preparation)
        chosen = permutation(len(images), self.run.train.seed, "calibration")[:count]
        world = 1 if alike else self.world
        held = [found for found, _ in self.batches(images, chosen, batch, alike)]
        with self.bar.task(what, None) as task:

            def prepared() -> Iterator[Tensor]:
                for found in held:
                    self.bar.advance(task, len(found) * world)
                    self.check()
                    yield self.normalized(found)

            yield _Again(prepared)

    def evaluated(self, split: Split, classes: Sequence[str]) -> Evaluation:
        """The evaluation on a split with these classes, by all processes together."""
        images = self.images(split, training=False, again=self.run.train.eval_every > 0)
        torch.manual_seed(derived(self.run.train.seed, "evaluate", self.rank))  # for dispatchers that draw at inference
        with self.bar.task(f"evaluating {split.name}", len(images)) as shown:

            def advance(count: int) -> None:
                self.bar.advance(shown, count * self.world)
                self.check()

            task, device = self.task, self.accelerator.device
            batches = self.batches(images, range(len(images)), task.batch)
            pairs = ((self.normalized(batch), task.to(targets, device)) for batch, targets in batches)
            return evaluate(self.model, pairs, advance, task, self.run.data, classes)

    def batches(self, images: Examples, positions: Sequence[int], size: int, alike: bool = False) -> Iterator[Any]:
        """This process's share of these images, or all of them, as they come from the loader."""
        mine = [(i, 0) for i in (positions if alike else positions[self.rank :: self.world])]
        plan = [mine[i : i + size] for i in range(0, len(mine), size)]
        return self.awaited(loader(images, plan, self.workers), self.check)
