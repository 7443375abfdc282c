"""Runs whose pretrained teacher is run once, before the first step, and not in every epoch."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from dyt.objective import teacher
from dyt.train import fit
from dyt.train import teacher as kept
from dyt.train.state import RunError

from .conftest import Runs
from .test_resume import interrupted, outcome

TAUGHT: dict[str, Any] = {
    "dispatcher": {"type": "learned", "noise": 0.0},
    "objective": {
        **{"features": 2.0, "teacher": "pretrained", "complete": 0.0, "distill": 0.0},
        **{"rate_weight": 0.0, "control": "threshold", "router_gradient": "none"},
    },
}


def losses(out: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [[row["loss"], row["features"], row["active_rate"]] for row in rows]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_run_is_that_which_asks_its_teacher_at_every_step(runs: Runs, tmp_path: Path, accumulate: int) -> None:
    train: dict[str, Any] = {"accumulate": accumulate}
    fit(runs(**TAUGHT, train=train), tmp_path / "kept", progress=False)
    fit(runs(**TAUGHT, train=train | {"keep_teacher": False}), tmp_path / "asked", progress=False)
    for ours, wanted in zip(losses(tmp_path / "kept"), losses(tmp_path / "asked"), strict=True):
        assert ours == pytest.approx(wanted, rel=1e-3)


def test_an_interrupted_run_has_the_same_bits(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "IN_MEMORY", 0)  # in a file, then
    run = runs(**TAUGHT)
    fit(run, tmp_path / "whole", progress=False)
    interrupted(run, tmp_path / "parts", 4, signal.SIGINT, monkeypatch)
    fit(run, tmp_path / "parts", progress=False)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


def test_images_that_change_have_no_kept_teacher(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*args: Any) -> Any:
        raise AssertionError("the teacher was run before the first step")

    monkeypatch.setattr(kept, "teacher_rows", unwanted)
    fit(runs(**TAUGHT, data={"augment": "crop"}, train={"epochs": 2}), tmp_path / "crop", progress=False)
    fit(runs(**TAUGHT, train={"mixup": 0.5}), tmp_path / "mixup", progress=False)
    fit(runs(**TAUGHT, train={"keep_teacher": False}), tmp_path / "off", progress=False)
    with pytest.raises(RunError, match=r"keep_teacher: true .*augment: none"):
        fit(
            runs(**TAUGHT, data={"augment": "crop"}, train={"keep_teacher": True}), tmp_path / "refused", progress=False
        )
    monkeypatch.undo()
    monkeypatch.setattr(kept, "LIMIT", 0)
    fit(runs(**TAUGHT), tmp_path / "large", progress=False)
    assert len(losses(tmp_path / "large")) == 2
