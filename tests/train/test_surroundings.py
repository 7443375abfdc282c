"""What a run was begun with: a change is named and refused, or accepted and written down."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dyt.train import RunError, RunSpec, fit
from dyt.train.surroundings import Files, Surroundings

from .conftest import Runs, draw
from .test_resume import interrupted, outcome

FILES = Files(examples=24, bytes=1000, names="a", times="b")
BEFORE = Surroundings(
    train=FILES,
    test=FILES,
    weights="w",
    world=1,
    device="cpu",
    versions={"dyt": "0.2.0", "torch": "2.14.1+cpu", "timm": "1.0.31"},
)


@pytest.mark.parametrize(
    ("change", "refused", "told"),
    [
        ({}, [], []),
        ({"train": FILES.model_copy(update={"examples": 25})}, ["data.train was 24 examples, 1,000 bytes, is 25"], []),
        ({"test": FILES.model_copy(update={"bytes": 999})}, ["data.test was 24 examples, 1,000 bytes, is 24"], []),
        ({"test": FILES.model_copy(update={"names": "x"})}, ["data.test has other file names, sizes or labels"], []),
        ({"train": FILES.model_copy(update={"times": "x"})}, ["files of data.train were modified"], []),
        ({"weights": "x"}, ["the frozen weights of the backbone (model.backbone.weights) are other ones"], []),
        ({"world": 2}, ["the number of processes was 1, is 2"], []),
        ({"device": "cuda"}, [], ["the device was cpu, is cuda"]),
        ({"versions": {**BEFORE.versions, "torch": "2.15.0"}}, ["torch was 2.14.1+cpu, is 2.15.0"], []),
        ({"versions": {**BEFORE.versions, "torch": "2.14.2+cpu"}}, [], ["torch was 2.14.1+cpu, is 2.14.2+cpu"]),
        ({"versions": {**BEFORE.versions, "dyt": "0.3.0"}}, ["dyt was 0.2.0, is 0.3.0"], []),
    ],
)
def test_changes_are_told_in_words(change: dict[str, Any], refused: list[str], told: list[str]) -> None:
    """A patch version and a kind of device alone need no acceptance."""
    found = BEFORE.changes(BEFORE.model_copy(update=change))
    assert [line.startswith(begin) for line, begin in zip(found[0], refused, strict=True)] == [True] * len(refused)
    assert found[1] == told


def touched(run: RunSpec) -> None:
    os.utime(Path(run.data.root) / "train" / "red" / "0.png", (1, 1))


def redrawn(run: RunSpec) -> None:
    """Another picture in the same file, and of the same time."""
    path = Path(run.data.root) / "test" / "red" / "0.png"
    stat = path.stat()
    Image.fromarray(np.zeros((36, 32, 3), np.uint8)).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def reweighted(run: RunSpec) -> None:
    path = run.model.backbone.weights
    save_file({k: v + 0.01 if k == "norm.weight" else v for k, v in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (touched, r"files of data\.train were modified"),
        (redrawn, r"data\.test was 9 examples, [\d,]+ bytes, is 9 examples"),
        (reweighted, r"the frozen weights of the backbone \(model\.backbone\.weights\) are other ones"),
    ],
)
def test_a_run_is_refused_until_the_change_is_accepted(
    runs: Runs,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[RunSpec], None],
    said: str,
) -> None:
    own = shutil.copy(weights, tmp_path / "own.safetensors")
    run = runs(
        data={"root": str(draw(tmp_path / "images", {"train": 8, "test": 3}))},
        backbone={**runs().model.backbone.model_dump(), "weights": str(own)},
    )
    out = tmp_path / "out"
    interrupted(run, out, 4, signal.SIGINT, monkeypatch)
    change(run)
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(RunError, match=rf"'.*' was begun otherwise: {said}.*; put that back, or give --accept-changes"):
        fit(run, out, progress=False)
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    if change is not touched:
        return
    fit(run, out, progress=False, accept_changes=True)
    resumed = json.loads((out / "run.json").read_text())["resumed"]
    assert [again["step"] for again in resumed] == [4]
    assert resumed[0]["accepted"]
    assert (out / "result.json").is_file()


def test_a_patch_version_is_only_written_down(
    runs: Runs, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("dyt.train.surroundings.version_of", lambda library: f"{torch.__version__.rpartition('.')[0]}.99")
        interrupted(runs(), tmp_path / "out", 4, signal.SIGINT, patch)
        begun = json.loads((tmp_path / "out" / "run.json").read_text())["surroundings"]["versions"]
        patch.setattr("dyt.train.surroundings.version_of", lambda library: f"{begun[library]}8")
        fit(runs(), tmp_path / "out")
    (again,) = json.loads((tmp_path / "out" / "run.json").read_text())["resumed"]
    assert (again["accepted"], len(again["told"])) == ([], 3)
    assert "changed since the run was begun: torch was " in capsys.readouterr().err
    assert outcome(tmp_path / "out") == outcome(unbroken)


def test_what_cannot_be_gone_on_with_is_refused_though_accepted(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of other steps, another optimiser; more epochs can be."""
    interrupted(runs(), tmp_path, 4, signal.SIGINT, monkeypatch)
    for changes, said in (
        ({"train": {"batch_size": 4}}, "has epochs of 3 steps, this run of 6"),
        ({"train": {"optimizer": "sgd"}}, "of the optimizer adamw, this run is of sgd"),
    ):
        with pytest.raises(RunError, match=said):
            fit(runs(**changes), tmp_path, progress=False, accept_changes=True)
    longer = runs(train={"epochs": 3})
    assert fit(longer, tmp_path, progress=False, accept_changes=True).epochs == 3
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
