"""Chooses by validation: every point is trained and validated, the best one is trained on both splits and tested once.

In that order: nothing is tested before every validation run is finished, and nothing can be changed once something is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from dyt.sweeps.grid import Point
from dyt.sweeps.pool import Job, Outcome, alone, sweep
from dyt.sweeps.search_record import TEST, VALIDATION, claim, testing
from dyt.sweeps.validation import Splits, splits_of
from dyt.sweeps.vtab1k import SweepError, Task, has_lists
from dyt.train.result import Result
from dyt.train.spec import RunSpec
from dyt.train.state import FREE, METRICS

Key = tuple[str, Point, int]
"""The name of a task, a point and a seed: a run."""


@dataclass(frozen=True)
class Search:
    """A grid on some tasks.

    Attributes:
        points: every point's run, its data without a place.
        tasks: where each lies.
        seeds: of every point.
        once: choose one point by the mean over the tasks, in place of one for each.
        optimism: evaluate the test split after every epoch of the runs that are tested, for `best_epochs`.
        validation: the split to choose by; None takes what the data has, or draws one from the training images.
    """

    points: Mapping[Point, RunSpec]
    tasks: Mapping[Task, Path]
    seeds: Sequence[int]
    once: bool = False
    optimism: bool = False
    validation: str | None = None

    def __post_init__(self) -> None:
        if not self.points or not self.tasks or not self.seeds:
            raise SweepError("a sweep needs a point, a task and a seed at least")
        seen: dict[str, Point] = {}
        for point, run in self.points.items():
            same = seen.setdefault(run.model_dump_json(), point)
            if same != point:
                raise SweepError(
                    f"the points '{same.label}' and '{point.label}' of the grid are the same run; leave one out"
                )

    @cached_property
    def arms(self) -> Mapping[str, Sequence[Point]]:
        """The points among which one is chosen, by what is compared."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            found.setdefault(point.arm, []).append(point)
        return found

    @cached_property
    def splits(self) -> Mapping[str, Splits]:
        """By the name of the task.

        Raises:
            SweepError, DataError: as `splits_of`.
        """
        run = next(iter(self.points.values()))
        return {task.name: splits_of(_at(run, folder), self.validation) for task, folder in self.tasks.items()}

    # Runs -------------------------------------------------------------------------------------------------------------

    def validations(self, out: Path) -> dict[Key, Job]:
        """The runs that are chosen by; an arm of one point has none."""
        several = [point for arm in self.arms.values() if len(arm) > 1 for point in arm]
        return {
            (task.name, point, seed): self._job(task, point, seed, out / VALIDATION, chosen=False)
            for task in self.tasks
            for point in several
            for seed in self.seeds
        }

    def tests(self, out: Path, chosen: Mapping[tuple[str, str], Point]) -> dict[Key, Job]:
        """The runs that are tested.

        Args:
            chosen: by (task, arm).
        """
        return {
            (task.name, point, seed): self._job(task, point, seed, out / TEST, chosen=True)
            for task in self.tasks
            for point in (chosen[task.name, arm] for arm in self.arms)
            for seed in self.seeds
        }

    def _job(self, task: Task, point: Point, seed: int, out: Path, chosen: bool) -> Job:
        run, splits = self.points[point], self.splits[task.name]
        names = (splits.both, splits.test) if chosen else (splits.train, splits.validation)
        data = _at(run, self.tasks[task]).model_copy(update=dict(zip(("train", "test"), names, strict=True)))
        train = {"seed": seed} | ({"eval_every": 1} if chosen and self.optimism else {})
        whole = run.model_copy(update={"data": data, "train": run.train.model_copy(update=train)})
        return Job(f"{task.name}, {point.label}, seed {seed}", whole, out / task.name / point.folder / f"seed{seed}")

    # What it is -------------------------------------------------------------------------------------------------------

    def definition(self) -> dict[str, Any]:
        """All that its results depend on, as plain data."""
        return {
            "tasks": {
                task.name: {"root": str(folder), **asdict(self.splits[task.name])}
                for task, folder in self.tasks.items()
            },
            "points": {point.label: _of_weight(run) for point, run in self.points.items()},
            "compared": list(next(iter(self.points)).compared),
            "seeds": list(self.seeds),
            "choose_once": self.once,
            "show_optimism": self.optimism,
        }


def _at(run: RunSpec, folder: Path) -> Any:
    """The run's data in that folder; where it has lists they are meant, whatever else lies there."""
    listed = {"format": "vtab"} if getattr(run.data, "format", "") == "auto" and has_lists(folder) else {}
    return run.data.model_copy(update={"root": str(folder), **listed})


def _of_weight(run: RunSpec) -> dict[str, Any]:
    """The run as plain data, but for what its result does not depend on."""
    plain: dict[str, Any] = run.model_dump(mode="json")
    for field in FREE:
        part, _, name = field.partition(".")
        plain[part].pop(name, None)
    return plain


@dataclass(frozen=True)
class Found:
    """What is known of a sweep so far.

    Attributes:
        validated, tested: the outcomes of its runs.
        chosen: the point by (task, arm); empty before all validation runs are finished.
        best_epochs: of the tested runs, the best test accuracy of all epochs; empty unless the sweep asks for it. This
            is no result: the epoch was picked by the test split.
    """

    validated: Mapping[Key, Outcome]
    tested: Mapping[Key, Outcome]
    chosen: Mapping[tuple[str, str], Point]
    best_epochs: Mapping[Key, float]


def run_search(
    search: Search,
    out: Path,
    *,
    parallel: int = 1,
    devices: Sequence[str] = (),
    progress: bool = True,
    finished: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Runs what is not finished into `out`, held against other sweeps: all validation runs, then those of the chosen
    points.

    A failed validation run stops it before anything is chosen or tested: choosing among what happened to be finished
    would be another procedure.

    Args:
        parallel: so many runs at a time, each in a process of its own.
        devices: of CUDA, one for each process side by side, in turns.
        progress: show a bar on standard error.
        finished: called at the start and after each run.

    Raises:
        SweepError: a sweep in `out` that was defined otherwise and has tested something, or another run there.
        Interrupted: after all have ended.
    """
    with alone(out):
        return _searched(search, out, {"parallel": parallel, "devices": devices, "progress": progress}, finished)


def _searched(search: Search, out: Path, options: Mapping[str, Any], finished: Callable[[Found], None]) -> Found:
    definition = search.definition()
    claim(out, definition)
    validations = search.validations(out)
    so_far = Found({}, {}, {}, {})
    if validations:
        validated = _run(
            validations, options, "validation runs", lambda outcomes: finished(Found(outcomes, {}, {}, {}))
        )
        so_far = Found(validated, {}, {}, {})
        if any(outcome.result is None for outcome in validated.values()):
            return so_far
    chosen = choose(search, so_far.validated)
    testing(out, definition)
    tests = search.tests(out, chosen)

    def found(outcomes: Mapping[Key, Outcome]) -> Found:
        done = {key for key, outcome in outcomes.items() if outcome.result is not None}
        best = {key: best_epoch(tests[key].out, outcomes[key].result) for key in done} if search.optimism else {}
        return Found(so_far.validated, outcomes, chosen, best)

    return found(_run(tests, options, "test runs", lambda outcomes: finished(found(outcomes))))


def _run(
    jobs: Mapping[Key, Job], options: Mapping[str, Any], what: str, finished: Callable[[Mapping[Key, Outcome]], None]
) -> dict[Key, Outcome]:
    keys = {job.name: key for key, job in jobs.items()}

    def keyed(outcomes: Mapping[str, Outcome]) -> dict[Key, Outcome]:
        return {keys[name]: outcome for name, outcome in outcomes.items()}

    return keyed(sweep(list(jobs.values()), what=what, finished=lambda done: finished(keyed(done)), **options))


def choose(search: Search, validated: Mapping[Key, Outcome]) -> dict[tuple[str, str], Point]:
    """By (task, arm) the point with the best mean over seeds, and over tasks too where the search chooses once.

    Of equally good ones it is the first of the grid.
    """
    names = [task.name for task in search.tasks]
    found = {}
    for arm, points in search.arms.items():
        for name in names:
            over = names if search.once else [name]
            means = [mean_accuracy(validated, over, point, search.seeds) for point in points if len(points) > 1]
            found[name, arm] = points[means.index(max(means))] if means else points[0]
    return found


def mean_accuracy(outcomes: Mapping[Key, Outcome], names: Sequence[str], point: Point, seeds: Sequence[int]) -> float:
    """Over tasks and seeds, all of which are finished."""
    return fmean(accuracy(outcomes[name, point, seed]) for name in names for seed in seeds)


def accuracy(outcome: Outcome) -> float:
    """Of a finished run, on what it was tested on, after its last epoch."""
    assert outcome.result is not None
    assert outcome.result.test.accuracy is not None
    return outcome.result.test.accuracy


def best_epoch(out: Path, result: Result | None) -> float:
    """The best test accuracy of all epochs of a run that was evaluated after each.

    Raises:
        SweepError: an epoch of which metrics.jsonl has no evaluation.
    """
    assert result is not None
    last = result.test.accuracy
    rows = [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]
    each: list[float] = [row["test"]["accuracy"] for row in rows if "test" in row]
    if len(each) != result.epochs - 1 or last is None:
        raise SweepError(f"'{out / METRICS}' has no evaluation of every epoch; remove '{out}', and it is run again")
    return max([*each, last])
