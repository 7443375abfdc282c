"""Segmentation from one RunSpec: trained, resumed, evaluated, drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dyt
from commands import said
from dyt.config.spec import parse
from dyt.errors import DyTError
from dyt.tasks.segmentation import SegmentationSpec
from dyt.train import RunSpec, fit
from dyt.train import loop as loops

from .conftest import ARGS, NAME, draw_masked


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_masked(tmp_path_factory.mktemp("masked"))


@pytest.fixture
def run(masked: Path, weights: Path) -> dict[str, Any]:
    return {
        "model": {
            "backbone": {"name": NAME, "weights": str(weights), "args": ARGS},
            "adapter": {"type": "bottleneck", "dim": 4},
            "head": {"type": "pixel"},
        },
        "data": {"task": "segmentation", "root": str(masked), "workers": 0},
        "train": {"epochs": 6, "batch_size": 4, "lr": 0.02},
    }


def test_command_line(masked: Path, run: dict[str, Any], tmp_path: Path) -> None:
    """Learned well above chance, evaluated to the same, drawn."""
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    printed = said("train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "out"))
    assert "miou" in printed
    report = json.loads((tmp_path / "out" / "result.json").read_text())["test"]
    assert report["accuracy"] is None
    assert report["images"] == 2
    assert report["metrics"]["miou"] > 0.7
    model = str(tmp_path / "out" / "model.safetensors")
    assert json.loads(said("eval", model, "--json")) == report
    rated = json.loads(said("eval", model, "--rate", "0.25", "--split", "training", "--json"))
    assert rated["images"] == 12
    image = masked / "images" / "test" / "0.png"
    line = said("predict", model, str(image), "--out", str(tmp_path / "drawn"))
    assert "active" in line
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names == ["0_activity.png", "0_labels.png", "0_mask.png"]
    row = json.loads(said("predict", model, str(image), "--out", str(tmp_path / "data"), "--json"))
    with Image.open(row["labels"]) as opened:
        numbers = np.asarray(opened)
    assert numbers.shape == (40, 48)
    assert row["shares"] == {"red": pytest.approx((numbers == 0).mean()), "blue": pytest.approx((numbers == 1).mean())}
    assert (row["image"], Path(row["picture"]).name) == (str(image), "0_mask.png")
    assert 0 < row["active_rate"] <= 1
    assert "1 images" in said("plot", model, str(image), "--out", str(tmp_path / "activity.png"))


def test_another_size_than_the_backbone_s(masked: Path, run: dict[str, Any], weights: Path, tmp_path: Path) -> None:
    """Crops and windows that are not square, in grey, from a backbone whose weights are of 32 x 32 pixels of RGB."""
    run["data"]["size"], run["train"]["epochs"] = [24, 40], 1
    run["model"]["backbone"] = {**run["model"]["backbone"], "args": {**ARGS, "in_chans": 1}}
    fit(parse(RunSpec, run), tmp_path / "run", progress=False)
    for name in ("run.yaml", "classes.txt"):
        (tmp_path / "run" / name).unlink()
    model, there = str(tmp_path / "run" / "model.safetensors"), ("--weights", str(weights))
    report = json.loads((tmp_path / "run" / "result.json").read_text())["test"]
    assert json.loads(said("eval", model, "--data", str(masked), "--json", *there)) == report
    said("predict", model, str(masked / "images" / "test" / "0.png"), "--out", str(tmp_path / "drawn"), *there)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        "0_activity.png",
        "0_labels.png",
        "0_mask.png",
    ]


def test_resumes_to_the_same(
    run: dict[str, Any], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stopped goes on, batch norms' statistics with it, and ends where one run in one piece does."""
    run["model"]["head"] = {"type": "upernet", "channels": 8}
    run["train"] |= {"epochs": 2, "checkpoint_every": 1}
    spec = parse(RunSpec, run)
    fit(spec, tmp_path / "whole", progress=False)
    steps, plain = iter([False, False, False, False, True]), loops._Run._interrupted
    monkeypatch.setattr(loops._Run, "_interrupted", lambda self: next(steps, False))
    with pytest.raises(loops.Interrupted):
        fit(spec, tmp_path / "parts", progress=False)
    monkeypatch.setattr(loops._Run, "_interrupted", plain)
    fit(spec, tmp_path / "parts", progress=False)
    models = [
        dyt.load(tmp_path / name / "model.safetensors", trust_paths=[weights]).state_dict()
        for name in ("whole", "parts")
    ]
    assert all(torch.equal(a, b) for a, b in zip(models[0].values(), models[1].values(), strict=True))


def test_whole_images_need_a_backbone_for_any_size(run: dict[str, Any], tmp_path: Path) -> None:
    run["data"]["inference"] = "whole"
    with pytest.raises(DyTError, match="whole, but the backbone takes images of one size"):
        fit(parse(RunSpec, run), tmp_path / "a", progress=False)
    run["model"]["backbone"]["args"] = {**ARGS, "dynamic_img_size": True}
    run["train"]["epochs"] = 1
    result = fit(parse(RunSpec, run), tmp_path / "b", progress=False)
    assert set(result.test.metrics) >= {"miou", "pixel_accuracy"}
    model = str(tmp_path / "b" / "model.safetensors")
    assert said("predict", model, run["data"]["root"] + "/images/test/1.png", "--out", str(tmp_path / "drawn"))


def test_data_without_a_task_is_of_classification() -> None:
    assert parse(RunSpec, {"data": {"root": "x"}}).data.task == "classification"
    segmentation = {"model": {"head": {"type": "pixel"}}, "data": {"task": "segmentation", "root": "x"}}
    spec = parse(RunSpec, segmentation)
    assert isinstance(spec.data, SegmentationSpec)
    assert parse(RunSpec, spec.model_dump(mode="json")) == spec
    with pytest.raises(DyTError, match="heads for segmentation: pixel, upernet"):
        parse(RunSpec, {"data": {"task": "segmentation", "root": "x"}})
