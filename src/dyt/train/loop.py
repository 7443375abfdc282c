"""`fit`: fine-tunes a model on HF accelerate, in one process or many, and can be interrupted anywhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from dyt.assembly.build import build
from dyt.assembly.image_size import sized
from dyt.core.data_config import attach
from dyt.core.draws import divided
from dyt.core.ranks import summed
from dyt.io.checkpoint import put, save, stored
from dyt.objective.step import TuningStep
from dyt.objective.teacher import TeacherFeatures
from dyt.tasks.base import Examples
from dyt.tasks.data import Data
from dyt.tasks.described import described
from dyt.tasks.kinds import task_of
from dyt.tasks.loading import loader, seeded
from dyt.tasks.sizes import pair
from dyt.train import optim
from dyt.train.accelerator import accelerator_for
from dyt.train.batches import Batch, Batches
from dyt.train.finite import LossCheck
from dyt.train.inference import Inference
from dyt.train.keeper import Keeper, infinite_keys
from dyt.train.length import Length
from dyt.train.lock import held
from dyt.train.progress import Bar, Signals
from dyt.train.randomness import derived, epoch_batches
from dyt.train.result import Result
from dyt.train.spec import RunSpec
from dyt.train.start import start_parts
from dyt.train.state import CLASSES, MODEL, RESULT, Interrupted, RunDir, RunError, write_whole
from dyt.train.surroundings import surroundings
from dyt.train.targets import Targets
from dyt.train.teacher import kept_teacher
from dyt.train.together import agreed, answering
from dyt.train.watch import Sums, floats, in_words


def fit(
    run: RunSpec, out: str | Path, *, progress: bool = True, resume: bool = True, accept_changes: bool = False
) -> Result:
    """Fine-tunes, evaluates and saves; an interrupted run goes on where it stopped, a finished one is read.

    Into `out` go run.yaml (the resolved spec), run.json (what else the result depends on), metrics.jsonl (a line per
    epoch), model.safetensors (for `dyt.load`), classes.txt, result.json, TensorBoard logs when it is installed, and
    while it runs resume.safetensors. Everything random is a function of (seed, step, image), so that an interrupted
    run gives the same result as an uninterrupted one: on the CPU, bit for bit. Under `torchrun` all processes share
    the batch. SIGINT (Ctrl-C) and SIGTERM save and stop after the present step.

    Args:
        run: `model.head.num_classes` is taken from the data unless it is given; the backbone follows `data.size` where
            it can.
        out: made when it is not there.
        progress: show bars, on standard error.
        resume: False removes an earlier run in `out` first.
        accept_changes: go on with a run whose spec, data, frozen weights, number of processes or library versions have
            changed, as far as its checkpoint fits; what has changed is written into run.json.

    Raises:
        SpecError: num_classes other than the data's, or sizes that do not divide among the processes.
        DataError, ImageError: data that cannot be used.
        UnsupportedError: a `data.size` that the backbone cannot have.
        RunError: `out` has another run, or one that goes on at this moment; a checkpoint that is damaged, or of a run
            that was begun with what has changed since; a loss that is not finite; a process that does not answer.
        Interrupted: after saving; the message says how to go on.
    """
    accelerator = accelerator_for(run.train, Path(out))
    data = task_of(run.data).open(run.data)
    run = run.with_classes(len(data.classes))
    if run.data.size is not None:
        run = run.with_backbone(sized(run.model.backbone, pair(run.data.size)))
    directory, main = RunDir(Path(out)), accelerator.is_main_process
    if resume and (directory / RESULT).is_file():
        agreed(lambda: directory.claim(run, resume) if main else None)
        return Result.read(directory / RESULT)
    with ExitStack() as holding:

        def claim() -> None:
            if main:
                holding.enter_context(held(Path(out)))
                directory.claim(run, resume, accept_changes)

        agreed(claim)
        if (directory / RESULT).is_file():  # finished while this run waited for its turn
            return Result.read(directory / RESULT)
        with seeded(derived(run.train.seed, "build")):
            bar = Bar(progress and main)
            return _Run(run, data, directory, accelerator, bar, accept_changes).finished()


class _Run:
    """One run from its first or its saved step to its result."""

    def __init__(
        self, run: RunSpec, data: Data, directory: RunDir, accelerator: Accelerator, bar: Bar, accept: bool
    ) -> None:
        self.run, self.train, self.data, self.directory, self.bar = run, run.train, data, directory, bar
        self.accelerator, self.signals, self.started = accelerator, Signals(), time.monotonic()
        self.world, self.rank = accelerator.num_processes, accelerator.process_index
        length = Length.of(self.train, data, self.world)
        self.per_epoch, self.steps = length.per_epoch, length.steps
        self.model = build(run.model)
        now = surroundings(data, run.data.root, self.model, self.world, accelerator.device.type)
        # random weights are had from nowhere else: the files of the run then have the whole backbone
        self.whole = run.model.backbone.weights == "none" or None
        reason = self.model.save_refusal()
        if reason is not None:
            raise RunError(f"this model could not be saved after training: {reason}")
        self.keeper = Keeper(
            directory,
            run,
            now,
            length,
            infinite_keys(stored(self.model, self.whole)),
            main=accelerator.is_main_process,
            accept=accept,
            say=bar.say,
        )
        self.model.set_grad_checkpointing(self.train.grad_checkpointing)
        optimizer = optim.optimizer(self.model, self.train)
        self.schedule = optim.scheduler(optimizer, self.train, self.per_epoch)
        self.tuning = TuningStep(self.model)
        self.step, self.optimizer = accelerator.prepare(self.tuning, optimizer)
        self.inference = Inference(run, self.model, accelerator, bar, self._stop_between, self._awaited)
        attach(self.model.backbone, described(run.data, self.inference.preparation, data.classes))
        self.sums = Sums(self.model, accelerator.device)
        self.losses = LossCheck(accelerator.device, self.world, self.keeper)
        self.done, self.seconds = 0, 0.0
        self.kept: TeacherFeatures | None = None
        self.batches = Batches(self.inference, Targets(self.train, self.model.num_classes), self.rank)

    # The run ----------------------------------------------------------------------------------------------------------

    def finished(self) -> Result:
        """Resumes or begins, trains to the end, and concludes."""
        with self.signals.caught(), answering(self.train.timeout, self.keeper.kept), self._tracked():
            self._restore()
            if self.done == 0:
                start_parts(self.inference, self.data.train, self.run.model.objective.asked_rate(0.0))
            if self.done < self.steps:
                images = self.inference.images(self.data.train, training=True, again=self.train.epochs > 1)
                self.kept = kept_teacher(self.inference, images, self.directory.path)
                with self.bar.task("training", self.steps, self.done) as task:
                    while self.done < self.steps:
                        self._epoch(images, task)
            return self._conclude()

    def _epoch(self, images: Examples, task: Any) -> None:
        t, epoch = self.train, self.done // self.per_epoch
        first = self.done % self.per_epoch
        plan = list(
            epoch_batches(len(images), t.batch_size, t.seed, epoch, t.accumulate, self.rank, self.world, start=first)
        )
        self.step.train()
        with closing(self._awaited(loader(images, plan, self.inference.workers), self._stop)) as loaded:
            self._steps(self.batches.taught(loaded, plan, self.kept), epoch, first, task)

    def _steps(self, batches: Iterator[Batch], epoch: int, first: int, task: Any) -> None:
        """The steps of an epoch from its `first` on."""
        t, begun = self.train, time.monotonic()
        for step in range(first, self.per_epoch):
            self.schedule.step_update(self.done)
            held = [next(batches) for _ in range(t.accumulate)]  # all, so that no wait is in the midst of a step
            with divided(self.rank, self.world), self._accumulating(held):
                for part, batch in enumerate(held):
                    self._part(batch, part)
            self.done += 1
            self.bar.advance(task)
            last, stop = step + 1 == self.per_epoch, self._interrupted()
            if self.bar.due():
                self._measured(task, epoch, (step - first + 1) * t.batch_size / (time.monotonic() - begun))
            if last:
                self._end_epoch(epoch, (step - first + 1) * t.batch_size, time.monotonic() - begun)
            if stop:
                self._stop()
            if (last if t.checkpoint_every is None else self.done % t.checkpoint_every == 0) or self.done == self.steps:
                self._checkpoint()

    def _accumulating(self, held: Sequence[Batch]) -> AbstractContextManager[None]:
        """In which the parts of a step are run, so that what they have in common is that of the whole step."""
        if len(held) == 1:
            return nullcontext()
        images = (self.batches.prepared(batch, self.done, part)[0] for part, batch in enumerate(held))
        return self.tuning.accumulating(images, self.done / self.steps, self.done, [batch.teacher for batch in held])

    def _part(self, batch: Batch, part: int) -> None:
        """One forward and backward: the step, or one of `accumulate` parts of it."""
        t = self.train
        images, targets = self.batches.prepared(batch, self.done, part)
        with self.accelerator.accumulate(self.step):
            with self.sums.watching(targets) as seen:
                given = {} if batch.teacher is None else {"teacher": batch.teacher}
                loss, parts = self.step(images, targets, self.done / self.steps, self.done, **given)
                seen.update(parts)
            self.losses.add(loss, self.done + 1)
            self.accelerator.backward(loss)
            if t.clip is not None and self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.step.parameters(), t.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _measured(self, task: Any, epoch: int, speed: float) -> None:
        if self.world == 1:  # several have looked
            self.losses.check()
        now = self.sums.report(joint=False)
        self.bar.measured(
            task,
            f"epoch {epoch + 1}/{self.train.epochs}",
            in_words(now, speed, self.inference.task.unit),
        )

    def _end_epoch(self, epoch: int, images: int, seconds: float) -> None:
        """Writes the epoch's row; the last epoch's sums are kept for the result."""
        row: dict[str, Any] = {"epoch": epoch + 1, "step": self.done, **self.sums.report()}
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "images_per_second": images / seconds, "seconds": seconds}
        every = self.train.eval_every
        if every and (epoch + 1) % every == 0 and self.done < self.steps:
            row["test"] = self.inference.evaluated(self.data.test, self.data.classes).model_dump()
            self.step.train()
        self.keeper.add(row)
        if self.accelerator.is_main_process:
            self.accelerator.log(floats({k: v for k, v in row.items() if k not in {"epoch", "step"}}), step=self.done)
        words = in_words(row, row["images_per_second"], self.inference.task.unit)
        self.bar.say(f"epoch {epoch + 1}/{self.train.epochs}  {words}")
        if self.done < self.steps:
            self.sums = Sums(self.model, self.accelerator.device)

    # Its end ----------------------------------------------------------------------------------------------------------

    def _conclude(self) -> Result:
        t, objective = self.train, self.run.model.objective
        training = self.sums.report()
        rates = objective.rate if objective.layer_rates is None else self.tuning.rates
        last = t.calibrate or objective.spread is not None  # whose last step had a rate of its own
        reached = self.inference.calibrated(self.data.train, rates) if last else None
        if t.budgets:
            self.inference.find_budgets(self.data.train)
        if self.accelerator.is_main_process:
            save(self.model, self.directory / MODEL, whole=self.whole)
            if self.data.classes:
                write_whole(self.directory / CLASSES, "".join(f"{name}\n" for name in self.data.classes))
        head = {id(p) for p in self.model.head_parameters}
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        result = Result(
            test=self.inference.evaluated(self.data.test, self.data.classes),
            asked_rate=objective.rate,
            training_rate=training["active_rate"],
            training_rates=training["active_rates"],
            calibrated_rate=reached,
            trainable=sum(p.numel() for p in trainable),
            trainable_without_head=sum(p.numel() for p in trainable if id(p) not in head),
            epochs=t.epochs,
            seconds=self._elapsed(),
        )
        if self.accelerator.is_main_process:
            write_whole(self.directory / RESULT, json.dumps(result.model_dump(mode="json"), indent=2) + "\n")
            self.directory.forget()
        self.accelerator.wait_for_everyone()
        return result

    # Interrupting and resuming ----------------------------------------------------------------------------------------

    def _interrupted(self) -> bool:
        """Whether any process was told to stop; all must ask, after each step. At an epoch's end losses are read."""
        return self.losses.stops(self.done, self.signals.noted, self.done % self.per_epoch == 0)

    def _awaited(self, batches: Generator[Any], stop: Callable[[], None]) -> Generator[Any]:
        """Batches, the wait for which a signal ends; of several processes all stop after the same step instead."""
        return self.signals.awaited(batches, stop) if self.world == 1 else batches

    def _stop(self) -> None:
        """Saves and stops after a step."""
        self._checkpoint()
        raise Interrupted(
            f"stopped after step {self.done} of {self.steps} and saved in '{self.directory.path}': run the same "
            f"command again to go on"
        )

    def _stop_between(self) -> None:
        """Stops outside of training, where there is nothing to save."""
        if self.signals.noted:
            raise Interrupted(f"nothing is lost: run the same command again to go on with '{self.directory.path}'")

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def _checkpoint(self) -> None:
        if self.world == 1:  # several have asked one another after the step
            self.losses.check()
        sums, scaler = summed(self.sums.values), self.accelerator.scaler

        def save() -> None:
            if self.accelerator.is_main_process:
                scaling = None if scaler is None else scaler.state_dict()
                state = self.optimizer.state_dict()
                tensors = stored(self.model, self.whole)
                self.keeper.save(self.done, tensors, sums, state, scaling, self._elapsed())

        agreed(save)

    def _restore(self) -> None:
        wanted = stored(self.model, self.whole)
        state = agreed(lambda: self.keeper.restored(wanted, self.sums.values, self.optimizer))
        if state is None:
            return
        self.done, self.seconds = state.header.step, state.header.seconds
        put(self.model, state.tensors, self.whole)
        if state.scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(state.scaler))
        within = self.done % self.per_epoch or self.done == self.steps  # else another epoch begins
        if within and self.accelerator.is_main_process:  # saved as the sum over all processes
            self.sums.values.copy_(state.sums)

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        """TensorBoard, when it is installed, closed however the run ends."""
        if self.accelerator.log_with:
            self.accelerator.init_trackers("tensorboard")
        try:
            yield
        finally:
            for tracker in self.accelerator.trackers:
                tracker.finish()
