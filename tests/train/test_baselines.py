"""The paper's baselines through `dyt train`, `dyt eval` and resuming, as any other model."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

import dyt
from dyt.config.files import override
from dyt.train import Result, fit
from dyt.train.named_runs import recipe, with_preset

from .conftest import ARGS, NAME, Runs
from .test_cli import said
from .test_resume import interrupted, outcome

STATIC = {"rate": 1.0, "rate_weight": 0.0, "complete": 0.0, "distill": 0.0}
ALONE: dict[str, Any] = {"dispatcher": "always", "adapter": {"type": "none"}, "objective": STATIC}


@pytest.mark.parametrize(
    "changes",
    [
        ALONE | {"tuner": {"type": "vpt", "tokens": 2, "dropout": 0.1}},
        ALONE | {"tuner": {"type": "vpt", "tokens": 2, "deep": False}},
        ALONE | {"tuner": "bitfit"},
        {"tuner": {"type": "lora", "rank": 2, "dropout": 0.1}, "variant": "attn_mlp"},
    ],
    ids=lambda changes: str(changes["tuner"]),
)
def test_each_trains_and_loads(runs: Runs, weights: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    result = fit(runs(**changes), tmp_path, progress=False)
    model = dyt.load(tmp_path / "model.safetensors", trust_paths=[weights])
    assert model.tuner is not None
    assert result.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert result.test.active_rate == (1.0 if changes.get("dispatcher") else result.test.active_rate)


def test_lora_by_the_command_line(images: Path, weights: Path, tmp_path: Path) -> None:
    options = ["--data", str(images), "--backbone", NAME, "--weights", str(weights), "--out", str(tmp_path)]
    changes = [f"model.backbone.args={json.dumps(ARGS)}", "train.batch_size=8", "train.epochs=8", "data.workers=0"]
    changes += ["train.lr=0.01", "train.warmup_epochs=0", "model.tuner.rank=4"]
    said("train", "--preset", "lora_vtab", *options, *(word for change in changes for word in ("--set", change)))
    result = Result.read(tmp_path / "result.json")
    assert result.trainable_without_head == 2 * 4 * (32 + 96)
    assert result.test.accuracy == 1.0
    report = json.loads(said("eval", str(tmp_path / "model.safetensors"), "--json"))
    assert report == json.loads((tmp_path / "result.json").read_text())["test"]


def test_an_interrupted_run_goes_on_bit_for_bit(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs(**ALONE, tuner={"type": "lora", "rank": 2, "dropout": 0.1}, train={"epochs": 2})
    fit(run, tmp_path / "whole", progress=False)
    interrupted(run, tmp_path / "parts", 4, signal.SIGINT, monkeypatch)
    fit(run, tmp_path / "parts", progress=False)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_preset_s_tuner_replaces_the_recipe_s() -> None:
    plain = with_preset(recipe("vtab1k"), "vpt_vtab")
    assert plain["model"]["tuner"] == {"type": "vpt", "tokens": 57, "deep": True, "dropout": 0.0}
    assert with_preset(plain, "dyt")["model"]["tuner"] is None


def test_a_preset_s_reducer_is_of_the_run() -> None:
    """A run of preset `tome` without ToMe would be another method under its name."""
    plain = with_preset(recipe("default"), "evit_adaptformer")
    assert plain["model"]["reducer"]["type"] == "evit"
    assert with_preset(plain, "dyt")["model"]["reducer"] is None
    assert override(with_preset(plain, "dyt"), ["model.reducer.type=tome"])["model"]["reducer"] == {"type": "tome"}


def test_set_begins_a_tuner_where_there_was_none() -> None:
    plain = dyt.DyTSpec().model_dump(mode="json")
    assert override(plain, ["tuner.type=lora", "tuner.rank=4"])["tuner"] == {"type": "lora", "rank": 4}
    assert override(plain, ["tuner=bitfit"])["tuner"] == "bitfit"
