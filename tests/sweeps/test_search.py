"""Choosing by validation with stand-ins for the runs: what is trained on what, chosen, refused and reported."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dyt.config.spec import parse
from dyt.sweeps import (
    TASKS,
    Axis,
    Found,
    Job,
    Outcome,
    Search,
    Splits,
    SweepError,
    evidence,
    points,
    run_search,
    tasks_in,
)
from dyt.sweeps.search import best_epoch
from dyt.sweeps.search_results import OPTIMISM
from dyt.sweeps.search_tables import tables
from dyt.train import RunSpec

from .conftest import ARGS, NAME, lists
from .test_report import outcome

VALUES = {  # on the validation images, by task, learning rate and seed
    ("caltech101", 1e-3, 0): 0.5,
    ("caltech101", 1e-3, 1): 0.7,
    ("caltech101", 3e-3, 0): 0.6,
    ("caltech101", 3e-3, 1): 0.8,
    ("flowers102", 1e-3, 0): 0.9,
    ("flowers102", 1e-3, 1): 0.7,
    ("flowers102", 3e-3, 0): 0.3,
    ("flowers102", 3e-3, 1): 0.5,
}
SPLITS = Splits("train", "val", "both", "test")
EPOCHS = [0.75, 0.2]
"""Test accuracy after the first epochs; after the last it is 0.5."""


class Runs:
    """In place of processes: their results, as the table above has them, and which jobs were run."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.failing = ""

    def __call__(
        self, jobs: Sequence[Job], what: str, finished: Callable[[dict[str, Outcome]], None], **options: Any
    ) -> dict[str, Outcome]:
        self.jobs += jobs
        finished({})
        found = {job.name: self.of(job) for job in jobs}
        finished(found)
        return found

    def of(self, job: Job) -> Outcome:
        if self.failing and self.failing in job.name:
            return Outcome(error="it diverged")
        task, run = job.out.parts[-3], job.run
        if run.data.test != "test":  # type: ignore[union-attr]
            return outcome(VALUES[task, run.train.lr, run.train.seed])
        job.out.mkdir(parents=True, exist_ok=True)
        rows = (
            [{"epoch": i, "test": {"accuracy": value}} for i, value in enumerate(EPOCHS)]
            if run.train.eval_every
            else []
        )
        (job.out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = outcome(0.5 + run.train.seed / 8)
        assert found.result is not None
        return Outcome(found.result.model_copy(update={"epochs": 3}))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setattr("dyt.sweeps.search.sweep", made)
    return made


@pytest.fixture
def two(tmp_path: Path) -> Path:
    for name in ("caltech101", "oxford_flowers102"):
        lists(tmp_path / "vtab" / name)
    return tmp_path / "vtab"


def search(root: Path, rates: Sequence[str] = ("1e-3", "3e-3"), seeds: Sequence[int] = (0, 1), **more: Any) -> Search:
    def run(**train: Any) -> RunSpec:
        backbone = {"name": NAME, "weights": "none", "args": ARGS}
        return parse(
            RunSpec,
            {
                "model": {"backbone": backbone},
                "data": {"root": str(root)},
                "train": {"epochs": 3, "batch_size": 8, **train},
            },
        )

    found = points([Axis("train.lr", tuple(rates))], [Axis("train.clip", more.pop("clips"))] if "clips" in more else [])
    every = {point: run(**{field.split(".")[1]: float(value) for field, value in point.settings}) for point in found}
    return Search(every, tasks_in(root), seeds, **more)


def test_each_task_has_its_best_point_which_is_trained_on_both_and_tested(
    runs: Runs, two: Path, tmp_path: Path
) -> None:
    found = run_search(search(two), tmp_path / "out")
    assert {name: point.label for (name, _), point in found.chosen.items()} == {
        "caltech101": "train.lr=3e-3",
        "flowers102": "train.lr=1e-3",
    }
    splits = [(job.run.data.train, job.run.data.test) for job in runs.jobs]  # type: ignore[union-attr]
    assert splits[:8] == [("train800val200[0-80%]", "train800val200[80-100%]")] * 8
    assert splits[8:] == [("train800val200", "test")] * 4
    assert [job.run.train.seed for job in runs.jobs] == [0, 1] * 6
    assert {job.run.data.format for job in runs.jobs} == {"vtab"}  # type: ignore[union-attr]
    assert all(job.run.train.eval_every == 0 for job in runs.jobs)
    assert len({job.out for job in runs.jobs}) == 12
    shown = evidence(search(two), found)
    first, _ = shown["tests"]
    assert (first["task"], first["chosen"], first["accuracy"]) == ("caltech101", "train.lr=3e-3", 0.5625)
    assert first["deviation"] == pytest.approx(0.125 / 2**0.5)
    assert shown["averages"][0]["tasks"]["seeds"] == [0.5, 0.625]
    assert shown["averages"][0]["groups"] is None
    assert [row["accuracy"] for row in shown["validation"]] == pytest.approx([0.7, 0.55])
    assert [row["chosen_for"] for row in shown["validation"]] == [["flowers102"], ["caltech101"]]
    apart = shown["validation"][1]["to_best"]  # pairs: 0.1, 0.1, -0.6, -0.2
    assert (apart["runs"]["mean"], apart["runs"]["pairs"]) == (pytest.approx(-0.15), 4)
    assert apart["runs"]["low"] == pytest.approx(-0.15 - 3.182446 * 0.331662 / 2, abs=1e-5)
    assert (apart["tasks"]["mean"], apart["tasks"]["pairs"]) == (pytest.approx(-0.15), 2)
    assert shown["not_a_result"] is None


def test_one_point_for_all_tasks_is_that_of_the_best_mean(runs: Runs, two: Path, tmp_path: Path) -> None:
    found = run_search(search(two, once=True), tmp_path / "out")
    assert {point.label for point in found.chosen.values()} == {"train.lr=1e-3"}  # 0.7 over 0.55


def test_what_is_compared_is_chosen_within(runs: Runs, two: Path, tmp_path: Path) -> None:
    wanted = search(two, clips=("1.0", "2.0"))
    shown = evidence(wanted, run_search(wanted, tmp_path / "out"))
    assert len(runs.jobs) == 16 + 8
    assert [row["arm"] for row in shown["averages"]] == ["train.clip=1.0", "train.clip=2.0"]
    (difference,) = shown["differences"]
    assert (difference["more"], difference["runs"]["mean"]) == ("train.clip=2.0", 0.0)
    assert [row["chosen"] for row in shown["tests"]][:2] == ["train.lr=3e-3"] * 2
    headings = [table.heading for table in tables(shown)]
    assert headings == ["Test", "Differences on the test images", "Validation"]


def test_a_single_point_is_not_validated(runs: Runs, two: Path, tmp_path: Path) -> None:
    wanted = search(two, ["1e-3"], [0])
    shown = evidence(wanted, run_search(wanted, tmp_path / "out"))
    assert [job.run.data.test for job in runs.jobs] == ["test"] * 2  # type: ignore[union-attr]
    assert shown["tests"][0]["deviation"] is None
    assert shown["validation"] == []


def test_picking_by_the_test_split_is_marked_as_no_result(runs: Runs, two: Path, tmp_path: Path) -> None:
    """The best of 0.75, 0.2 and the last epoch's 0.5 or 0.625; the tests themselves stay the last epoch's."""
    wanted = search(two, optimism=True)
    found = run_search(wanted, tmp_path / "out")
    shown = evidence(wanted, found)
    assert {job.run.train.eval_every for job in runs.jobs} == {0, 1}
    assert [row["accuracy"] for row in shown["tests"]] == [0.5625] * 2
    claimed = shown["not_a_result"]
    assert claimed["what"] == OPTIMISM
    assert claimed["arms"][0]["by_task"] == {"caltech101": 0.75, "flowers102": 0.75}
    assert claimed["arms"][0]["above_the_result"]["runs"]["mean"] == pytest.approx(0.1875)
    text = [table.markdown() for table in tables(shown)][-1]
    assert text.startswith("## Picked by the test split: not a result")
    assert "NOT A RESULT" in text
    job = runs.jobs[-1]
    (job.out / "metrics.jsonl").write_text("")
    with pytest.raises(SweepError, match="has no evaluation of every epoch; remove"):
        best_epoch(job.out, next(iter(found.tested.values())).result)


def test_a_failed_validation_run_stops_it_before_anything_is_chosen(runs: Runs, two: Path, tmp_path: Path) -> None:
    runs.failing = "caltech101, train.lr=3e-3, seed 1"
    found = run_search(search(two), tmp_path / "out")
    assert (found.tested, found.chosen) == ({}, {})
    assert len(runs.jobs) == 8
    shown = evidence(search(two), found)
    assert shown["failed"] == {"validation: caltech101, train.lr=3e-3, seed 1": "it diverged"}
    assert [row["point"] for row in shown["validation"]] == ["train.lr=1e-3"]
    assert shown["validation"][0]["to_best"] is None
    run_search(search(two, ["1e-3"]), tmp_path / "out")  # it may be left out, as long as nothing was tested
    assert json.loads((tmp_path / "out/sweep.json").read_text())["tested"] is True


def test_a_grid_may_grow_until_something_is_tested(runs: Runs, two: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def interrupted(found: Found) -> None:
        if len(found.validated) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(search(two), out, finished=interrupted)
    assert json.loads((out / "sweep.json").read_text())["tested"] is False
    run_search(search(two, once=True), out)
    run_search(search(two, once=True), out)
    for other, said in (
        (search(two), "choose_once was True, is False"),
        (search(two, ["1e-3"], once=True), "left out among the points: train.lr=3e-3"),
        (search(two, ["1e-3", "3e-3", "1"], once=True), "new among the points: train.lr=1"),
        (search(two, seeds=[0], once=True), r"seeds was \[0, 1\], is \[0\]"),
        (search(two / "caltech101", once=True), "left out among the tasks: flowers102"),
    ):
        with pytest.raises(SweepError, match=rf"so that its grid cannot be changed: .*{said}.*; give another --out"):
            run_search(other, out)
    (out / "sweep.json").unlink()
    with pytest.raises(SweepError, match=r"has runs that were tested but no sweep\.json"):
        run_search(search(two, once=True), out)
    (out / "sweep.json").write_text("{}")
    with pytest.raises(SweepError, match="is not the record of a sweep"):
        run_search(search(two, once=True), out)


def test_points_that_are_the_same_run_are_refused(two: Path) -> None:
    with pytest.raises(
        SweepError, match=r"the points 'train.lr=1e-3' and 'train.lr=0.001' of the grid are the same run"
    ):
        search(two, ["1e-3", "0.001"])


def test_the_mean_of_groups_is_of_the_whole_benchmark(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of a group of 7 at 0.7, of 4 at 0.4, of 8 at 0.1: 0.4, where the mean of the tasks is 7.3 / 19."""
    value = {"natural": 0.7, "specialised": 0.4, "structured": 0.1}
    group = {task.name: str(task.group) for task in TASKS}
    for task in TASKS:
        (tmp_path / "vtab" / task.folders[0]).mkdir(parents=True)
        for name in ("train800val200", "test"):
            (tmp_path / "vtab" / task.folders[0] / f"{name}.txt").write_text("")
    monkeypatch.setattr(runs, "of", lambda job: outcome(value[group[job.out.parts[-3]]]))
    monkeypatch.setattr("dyt.sweeps.search.splits_of", lambda data, validation: SPLITS)
    wanted = search(tmp_path / "vtab", ["1e-3"], [0, 1])
    (row,) = evidence(wanted, run_search(wanted, tmp_path / "out"))["averages"]
    assert row["groups"]["seeds"] == pytest.approx([0.4, 0.4])
    assert row["tasks"]["accuracy"] == pytest.approx(7.3 / 19)


def test_tasks_are_the_folders_with_lists_or_the_data_itself(two: Path, tmp_path: Path) -> None:
    assert [(task.name, path.name) for task, path in tasks_in(two).items()] == [
        ("caltech101", "caltech101"),
        ("flowers102", "oxford_flowers102"),
    ]
    assert [task.name for task in tasks_in(two, ["flowers102"])] == ["flowers102"]
    (own,) = tasks_in(two / "caltech101")
    assert (own.name, own.group) == ("caltech101", "natural")
    with pytest.raises(SweepError, match=r"--task x: .* no folder with train800val200.txt"):
        tasks_in(two / "caltech101", ["x"])
