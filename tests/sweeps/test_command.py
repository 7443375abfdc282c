"""`dyt sweep` from the command line to its tables."""

import json
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dyt.cli.main import app
from dyt.sweeps import pool
from dyt.train import fit

from .conftest import ARGS, NAME

HANGING = 600
"""Seconds."""


def said(root: Path, out: Path, weights: Path, *more: str, verb: tuple[str, ...] = ("sweep", "vtab1k")) -> Result:
    """With as many loader processes as there are without a word; one that hangs is ended as a user would end it."""
    changes = [f"model.backbone.args={json.dumps(ARGS)}", "train.batch_size=8", "train.epochs=1"]
    options = ["--root", str(root), "--out", str(out), "--backbone", NAME, "--weights", str(weights), *more]
    impatient = threading.Timer(HANGING, os.kill, (os.getpid(), signal.SIGTERM))
    impatient.start()
    try:
        return CliRunner().invoke(app, [*verb, *options, *(w for c in changes for w in ("--set", c))])
    finally:
        impatient.cancel()


def test_a_sweep_and_its_failure(root: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (root / "caltech101/images/test0.png").write_bytes(b"")
    first = said(root, out, weights, "--task", "caltech101", "--task", "ours")
    assert first.exit_code == 1, first.output
    assert "caltech101 failed" in first.stderr
    assert "test0.png: an empty file" in first.stderr
    rows = {row["name"]: row for row in json.loads((out / "results.json").read_text())["rows"]}
    assert rows["ours"]["status"] == "finished"
    assert rows["caltech101"]["paper"] == pytest.approx(0.948)
    assert (out / "results.md").is_file()
    assert (out / "results.csv").is_file()


def test_refusals_are_one_line(root: Path, weights: Path, tmp_path: Path) -> None:
    for more, message in (
        (("--all",), "lacks 17 of 19 tasks"),
        (("--beside", "dyt"), "table 3 has no row 'dyt'"),
        (("--task", "none"), "no task 'none'"),
    ):
        answer = said(root, tmp_path / "out", weights, *more)
        assert answer.exit_code == 2
        assert message in answer.stderr
        assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[pool.Job]:
    """Runs are fitted here, which takes seconds less each than a process."""
    done: list[pool.Job] = []

    def fitted(jobs: Sequence[pool.Job], what: str, finished: Any, **options: Any) -> dict[str, pool.Outcome]:
        done.extend(jobs)
        found = {job.name: pool.Outcome(fit(job.run, job.out, progress=False)) for job in jobs}
        finished(found)
        return found

    monkeypatch.setattr("dyt.sweeps.search.sweep", fitted)
    return done


def test_a_grid_is_chosen_from_by_validation(
    root: Path, weights: Path, tmp_path: Path, in_this_process: list[pool.Job]
) -> None:
    """And to be evaluated after every epoch changes no result."""
    out, verb = tmp_path / "out", ("sweep",)
    preset = ("--preset", "static_adapter_vtab", "--set", "train.epochs=2", "--task", "ours", "--set", "data.workers=0")
    grid = ("--grid", "train.lr=1e-6,3e-2", "--seeds", "3", "--show-optimism")
    answer = said(root, out, weights, *preset, *grid, verb=verb)
    assert answer.exit_code == 0, answer.output
    assert "ours: trained on train800val200[0-80%], chosen by train800val200[80-100%]; then on" in answer.stderr
    shown = json.loads((out / "results.json").read_text())
    (test,) = shown["tests"]
    assert shown["seeds"] == [3]
    assert [row["point"] for row in shown["validation"] if row["chosen_for"]] == [test["chosen"]]
    assert shown["not_a_result"]["arms"][0]["by_task"]["ours"] >= test["accuracy"]
    text = (out / "results.md").read_text()
    assert text.startswith("# 2 points on 1 task with vit_tiny_patch16_224, seeds 3\n\n## Test\n")
    assert "NOT A RESULT" in text
    last = in_this_process[-1]
    plain = last.run.model_copy(update={"train": last.run.train.model_copy(update={"eval_every": 0})})
    assert fit(plain, tmp_path / "plain", progress=False).test == fit(last.run, last.out, progress=False).test
    again = said(root, out, weights, *preset, *grid, verb=verb)
    assert again.exit_code == 0
    assert json.loads((out / "results.json").read_text()) == shown
    other = said(root, out, weights, *preset, *grid, "--choose-once", verb=verb)
    assert other.exit_code == 2
    assert "has tested what it chose, so that its grid cannot be changed: choose_once was False" in other.stderr


def test_refusals_of_grids_are_one_line(root: Path, weights: Path, tmp_path: Path) -> None:
    for more, message in (
        (("--grid", "train.lr=fast"), "train.lr"),
        (("--grid", "train.lrr=1,2"), "train.lrr"),
        (("--seeds", "0,0"), "--seeds 0,0: give whole numbers from 0, each once, such as 0,1,2"),
        (("--seeds", "a"), "--seeds a: give whole numbers"),
        (("--validation", "test"), "is of the test split 'test', by which nothing may be chosen"),
        (("--grid", "preset=linear,dyt", "--preset", "dyt"), "--preset and an axis 'preset' both name the model"),
        (("--beside", "full"), "--beside is of 'dyt sweep vtab1k' without a grid or seeds"),
        (("--all",), "--all is of the tasks of a benchmark"),
        (("--grid", "preset=none"), "no preset 'none'"),
    ):
        answer = said(root, tmp_path / "out", weights, *more, verb=("sweep",))
        assert answer.exit_code == 2, answer.output
        lines = [line for line in answer.stderr.splitlines() if not line.startswith(("caltech", "flowers", "ours"))]
        assert len(lines) == 1
        assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_failed_validation_run_is_told(
    root: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(jobs: Sequence[pool.Job], what: str, finished: Any, **options: Any) -> dict[str, pool.Outcome]:
        return {job.name: pool.Outcome(error="it diverged") for job in jobs}

    monkeypatch.setattr("dyt.sweeps.search.sweep", failing)
    answer = said(root, tmp_path / "out", weights, "--grid", "train.lr=1,2", "--task", "ours", verb=("sweep",))
    assert answer.exit_code == 1
    assert "dyt: ours, train.lr=2, seed 0 failed: it diverged" in answer.stderr
    assert "dyt: nothing was chosen or tested, since a validation run failed" in answer.stderr


def test_real_processes_choose_too(root: Path, weights: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("three processes; use --full")
    more = ("--preset", "linear", "--task", "ours", "--grid", "train.lr=1e-3,3e-2")
    answer = said(root, tmp_path / "out", weights, *more)
    assert answer.exit_code == 0, answer.output
    assert len(list((tmp_path / "out").glob("*/ours/*/seed0/result.json"))) == 3
