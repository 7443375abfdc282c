"""Interrupting and resuming gives bit for bit what not interrupting gives, wherever the interruption falls."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dyt.objective.step import TuningStep
from dyt.tasks.loading import Images
from dyt.train import Interrupted, RunError, RunSpec, fit

from .conftest import Runs, tensors

TIMED = {"seconds", "images_per_second"}
NOISY: dict[str, Any] = {
    "dispatcher": {"type": "learned", "noise": {"start": 1.0, "end": 0.2}},
    "adapter": {"type": "bottleneck", "dim": 4, "dropout": 0.3},
    "data": {"augment": "crop"},
}


def outcome(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """(tensors of the model file, metrics, result), without what a clock says."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k not in TIMED} for row in rows]
    result = json.loads((out / "result.json").read_text())
    return tensors(out / "model.safetensors"), rows, {k: v for k, v in result.items() if k not in TIMED}


def interrupted(run: RunSpec, out: Path, calls: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs until the signal arrives in the forward of this number."""
    forward, count = TuningStep.forward, [0]

    def signalling(self: TuningStep, *args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == calls:
            os.kill(os.getpid(), number)
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TuningStep, "forward", signalling)
        with pytest.raises(Interrupted, match="run the same command again"):
            fit(run, out, progress=False)
    assert (out / "resume.safetensors").is_file()
    assert not (out / "result.json").exists()


@pytest.mark.parametrize(
    "calls", [(1,), (4,), (3, 2), (6,)], ids=["first step", "mid-epoch", "epoch's end, then mid", "last"]
)
def test_equal_to_uninterrupted(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: tuple[int, ...]
) -> None:
    run = runs(**NOISY, train={"calibrate": True, "warmup_epochs": 1})
    fit(run, tmp_path / "whole", progress=False)
    for number, call in zip((signal.SIGINT, signal.SIGTERM), calls, strict=False):
        interrupted(run, tmp_path / "parts", call, number, monkeypatch)
    fit(run, tmp_path / "parts", progress=False)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_equal_with_accumulation_mixup_and_workers(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**NOISY, "data": {"augment": "timm", "random_erasing": 0.5}}
    train = {"accumulate": 2, "mixup": 0.5, "optimizer": "adamw", "clip": 1.0}
    fit(runs(**changes, train=train), tmp_path / "whole", progress=False)
    interrupted(runs(**changes, train=train), tmp_path / "parts", 3, signal.SIGINT, monkeypatch)
    changes["data"]["workers"] = 1
    fit(runs(**changes, train=train), tmp_path / "parts", progress=False)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="loader processes must inherit what hangs")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than this machine has cores, maybe
@pytest.mark.parametrize("where", ["training", "test"])
def test_loader_processes_that_hang_do_not_hold_a_signal_up(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """What was trained until then is kept, and the loader processes end too."""
    fit(runs(**NOISY), tmp_path / "whole", progress=False)
    sample, stuck, rows = Images.sample, tmp_path / "stuck", tmp_path / "parts" / "metrics.jsonl"

    def hanging(self: Images, i: int, seed: int = 0) -> Any:
        if self.split.name.startswith("test") if where == "test" else rows.read_text():
            stuck.touch()
            time.sleep(600)
        return sample(self, i, seed)

    def stop_when_stuck() -> None:
        while not stuck.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    changes = {**NOISY, "data": {**NOISY["data"], "workers": 2}}
    with monkeypatch.context() as patch:
        patch.setattr(Images, "sample", hanging)
        threading.Thread(target=stop_when_stuck, daemon=True).start()
        with pytest.raises(
            Interrupted, match="stopped after step 3 of 6" if where == "training" else "nothing is lost"
        ):
            fit(runs(**changes), tmp_path / "parts", progress=False)
    assert multiprocessing.active_children() == []
    fit(runs(**changes), tmp_path / "parts", progress=False)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_crash_after_a_checkpoint_within_an_epoch_repeats_only_what_came_after(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs(**NOISY, train={"checkpoint_every": 2})
    fit(run, tmp_path / "whole", progress=False)
    forward, count = TuningStep.forward, [0]

    def crashing(self: TuningStep, *args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == 4:
            raise MemoryError
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TuningStep, "forward", crashing)
        with pytest.raises(MemoryError):
            fit(run, tmp_path / "parts", progress=False)
    assert len((tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()) == 1  # of the epoch that is repeated
    fit(run, tmp_path / "parts", progress=False)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_the_checkpoint_is_never_unpickled(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(runs(), tmp_path, 1, signal.SIGINT, monkeypatch)
    torch.save({"step": Path("evil")}, tmp_path / "resume.safetensors")
    with pytest.raises(RunError, match="is not a safetensors file"):
        fit(runs(), tmp_path, progress=False)


def test_the_handlers_are_given_back(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupted(runs(), tmp_path, 1, signal.SIGINT, monkeypatch)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
