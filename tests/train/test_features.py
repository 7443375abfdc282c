"""Runs of the task `features`, from the command line and in Python: no labels, metrics, budgets, resuming."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import dyt
from commands import said
from dyt.cli.train import run_spec
from dyt.errors import UnsupportedError
from dyt.train import fit, recipe
from dyt.train.spec import RunSpec

from .conftest import ARGS, NAME, Runs
from .test_resume import interrupted, outcome

METRICS = {"image_cosine", "patch_cosine", "neighbour_agreement"}
HEAD: dict[str, Any] = {"head": {"type": "tokens"}}
OBJECTIVE: dict[str, Any] = {
    **{"complete": 0.0, "distill": 0.0, "features": 1.0, "teacher": "pretrained"},
    **{"rate_weight": 0.0, "control": "threshold", "router_gradient": "none"},
}


@pytest.fixture(scope="module")
def trained(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of `dyt train --task features` on a folder of folders."""
    out = tmp_path_factory.mktemp("features") / "run"
    options = ["--task", "features", "--data", str(images), "--backbone", NAME, "--weights", str(weights)]
    changes = [f"model.backbone.args={json.dumps(ARGS)}", "train.batch_size=8", "train.epochs=2", "data.workers=0"]
    changes += ["model.stand_in.dim=4", "model.adapter.dim=4"]
    output = said("train", *options, "--out", str(out), *(word for change in changes for word in ("--set", change)))
    assert "neighbour agreement" in output
    return out


def test_a_run_needs_no_labels(trained: Path, images: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    test = result["test"]
    assert (test["images"], test["accuracy"], set(test["metrics"])) == (3, None, METRICS)  # a tenth of 33
    assert result["calibrated_rate"] == pytest.approx(0.5, abs=0.05)  # of the training images: three others tell little
    assert 0 < test["active_rate"] < 1
    assert test["gmacs"] < test["gmacs_complete"]
    assert not (trained / "classes.txt").exists()
    assert json.loads(said("eval", str(trained), "--json")) == test


def test_eval_at_a_budget_and_with_every_token(trained: Path, weights: Path) -> None:
    low, high = (json.loads(said("eval", str(trained), "--budget", rate, "--json")) for rate in ("0.25", "1"))
    assert low["active_rate"] < high["active_rate"] == 1
    model = dyt.load(trained / "model.safetensors", trust_paths=[weights])
    assert model.data_config is not None
    assert model.data_config.label_names is None
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), dyt.plain(model):
        assert model(x).shape == (2, 17, 32)


def test_eval_on_another_folder(trained: Path, images: Path) -> None:
    found = json.loads(said("eval", str(trained), "--data", str(images), "--split", "test", "--json"))
    assert found["images"] == 9
    assert set(found["metrics"]) == METRICS


def test_predict_has_nothing_to_say(trained: Path, images: Path) -> None:
    with pytest.raises(UnsupportedError, match="gives tokens and no answer"):
        said("predict", str(trained), str(next(images.rglob("*.png"))))


def test_the_task_has_its_recipe() -> None:
    run = run_spec(None, None, None, {"data.root": "."}, [], "features")
    assert run == RunSpec.model_validate({**recipe("features"), "data": {"task": "features", "root": "."}})
    other = run_spec(None, "budgets", None, {"data.root": "."}, [], "features")
    assert (other.model.head.type, other.data.task) == ("tokens", "features")


def test_an_interrupted_run_has_the_same_bits(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs(**HEAD, objective=OBJECTIVE, data={"task": "features"})
    fit(run, tmp_path / "whole", progress=False)
    interrupted(run, tmp_path / "parts", 4, signal.SIGINT, monkeypatch)
    fit(run, tmp_path / "parts", progress=False)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_kept_teacher_says_what_an_asked_one_says(runs: Runs, tmp_path: Path) -> None:
    def losses(name: str, **train: Any) -> list[float]:
        given = runs(**HEAD, objective=OBJECTIVE | {"features": 0.0}, data={"task": "features"}, train=train)
        fit(given, tmp_path / name, progress=False)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows]

    assert losses("kept", keep_teacher=True) == pytest.approx(losses("asked", keep_teacher=False), rel=1e-3)


def test_routers_start_from_what_is_beyond_their_stand_ins(runs: Runs, tmp_path: Path) -> None:
    given = {**HEAD, "stand_in": {"type": "low_rank", "dim": 4}, "objective": OBJECTIVE}
    common: dict[str, Any] = {"stand_in_start": "fitted", "epochs": 1, "lr": 1e-12}
    for start in ("importance", "residual"):
        run = runs(**given, data={"task": "features"}, train=common | {"router_start": start})
        fit(run, tmp_path / start, progress=False)
    one, other = (outcome(tmp_path / start) for start in ("importance", "residual"))
    assert one != other
    with pytest.raises(dyt.SpecError, match="residual is of fitted stand-ins"):
        runs(train={"router_start": "residual"})
