"""A loss that is not finite is noticed at its step, and a state with values that are not is never written."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dyt.objective.step import TuningStep
from dyt.train import RunError, RunSpec, fit, loop
from dyt.train.finite import LossCheck

from .conftest import Runs
from .test_resume import outcome


def broken_from(step: int, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are this value from this step on, counted from 1."""
    forward = TuningStep.forward

    def broken(self: TuningStep, images: Any, labels: Any, progress: Any = None, at: Any = None) -> Any:
        loss, parts = forward(self, images, labels, progress, at)
        return (loss * value, {**parts, "total": loss * value}) if at + 1 >= step else (loss, parts)

    monkeypatch.setattr(TuningStep, "forward", broken)


def read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator, where a run that is alone reads its losses before a checkpoint alone."""

    class Late(LossCheck):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.cheap = False

    monkeypatch.setattr(loop, "LossCheck", Late)


def test_it_is_noticed_before_the_last_good_state_is_written_over(
    runs: Runs, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is not looked at in between. The run goes on to the result of one in which nothing was wrong."""
    run, out = runs(), tmp_path / "out"
    with monkeypatch.context() as patch:
        broken_from(5, math.inf, patch)
        read_late(patch)
        with pytest.raises(RunError) as caught:
            fit(run, out, progress=False)
    said = str(caught.value)
    assert said.startswith("the loss is not finite at step 5 of 6 (epoch 2); the state after step 3 of 6 is kept in '")
    assert "lower train.lr" in said
    assert "--accept-changes to go on from there" in said
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    fit(run, out, progress=False)
    assert outcome(out) == outcome(unbroken)


def test_a_lower_rate_can_be_gone_on_with(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the message says: `--accept-changes`, which is written down, also into the run's spec."""
    with monkeypatch.context() as patch:
        broken_from(5, math.nan, patch)
        with pytest.raises(RunError, match="not finite at step 5"):
            fit(runs(), tmp_path, progress=False)
    with pytest.raises(RunError, match=r"another run: train\.lr was 0\.01, is 0\.001; .*--accept-changes"):
        fit(runs(train={"lr": 0.001}), tmp_path, progress=False)
    fit(runs(train={"lr": 0.001}), tmp_path, progress=False, accept_changes=True)
    assert "lr: 0.001\n" in (tmp_path / "run.yaml").read_text()
    assert "train.lr was 0.01, is 0.001" in (tmp_path / "run.json").read_text()


def poisoned(run: RunSpec, out: Path, poison: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a run says that is poisoned after step 5, whose loss was finite."""
    save = loop._Run._checkpoint

    def after(self: Any) -> None:
        if self.done == 6:
            poison(self)
        save(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_checkpoint", after)
        with pytest.raises(RunError) as caught:
            fit(run, out, progress=False)
    return str(caught.value)


def test_a_state_that_is_not_finite_is_not_written(
    runs: Runs, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(run: Any) -> None:
        run.model.head_parameters[0].data[0] = math.nan

    def moments(run: Any) -> None:
        next(iter(run.optimizer.state.values()))["exp_avg"].fill_(math.inf)

    for poison, name in ((weights, "model.backbone.head.weight"), (moments, "optimizer.state.0.exp_avg")):
        said = poisoned(runs(), tmp_path / name, poison, monkeypatch)
        assert said.startswith(
            f"after step 6 of 6 '{name}' has values that are not finite; the state after step 3 of 6"
        )
        assert "lower train.lr" in said
    fit(runs(), tmp_path / name, progress=False)
    assert outcome(tmp_path / name) == outcome(unbroken)


def test_the_first_of_several_is_named() -> None:
    class Known:
        length = type("Length", (), {"steps": 9, "per_epoch": 3})

        def kept(self) -> str:
            return "kept"

        def remedy(self) -> str:
            return "mend"

    check: Any = LossCheck(torch.device("cpu"), 1, Known())  # type: ignore[arg-type]
    for step, loss in enumerate((1.0, math.nan, 2.0, math.inf), 1):
        check.add(torch.tensor(loss), step)
    with pytest.raises(RunError, match=r"^the loss is not finite at step 2 of 9 \(epoch 1\); kept; mend$"):
        check.check()
