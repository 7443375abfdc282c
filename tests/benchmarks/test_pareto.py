"""`benchmarks/pareto.py`: its stages on two methods at small sizes, what is planned, and with --full every method."""

import copy
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dyt
from dyt.sweeps.statistics import Spread
from sweeps.conftest import lists

ROOT = Path(__file__).parents[2]
SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks" / "pareto.py"))


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    lists(tmp_path / "data" / "caltech101")
    splits = ["--train-split", "train800val200", "--split", "test"]
    return [str(tmp_path / "out"), "--small", "--data", str(tmp_path / "data"), "--tasks", "caltech101", *splits]


def test_stages_do_what_the_folder_lacks(
    script: dict[str, Any], command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", tmp_path / "out" / "pareto.jsonl"
    some = ["--seeds", "0", "--only", "static", "tome", "--batches", "2", "--images", "2", "--set", "data.workers=0"]
    assert script["main"]([*command, *some, "--eval"]) == 0
    assert "static/model.safetensors: not trained yet" in capsys.readouterr().err
    assert script["main"]([*command, *some, "--train", "--eval", "--time", "--report"]) == 0
    lines = {line["key"]: line["result"] for line in map(json.loads, file.read_text().splitlines())}
    assert list(lines) == [
        "settings",
        "eval: caltech101: static adapter: seed 0",
        "eval: caltech101: ToMe r=1: seed 0",
        "time: caltech101: static adapter: batch 2",
        "time: caltech101: ToMe: batch 2",
    ]
    static, merged = (lines[key] for key in list(lines)[1:3])
    assert merged["gmacs"] < static["gmacs"]
    assert [row["rewritten"] for key in list(lines)[3:] for row in lines[key]["rows"]] == ["4 of 4", "0 of 4"]
    assert "| ToMe | r=1 |" in (out / "report.md").read_text()
    assert (out / "caltech101.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "runs/caltech101/seed0/static/model.safetensors").is_file()
    before = file.read_bytes()
    with file.open("a") as cut:
        cut.write('{"key": "eval: caltech101: stat')  # interrupted
    assert script["main"]([*command, *some, "--train", "--eval", "--time", "--report"]) == 0
    assert file.read_bytes() == before
    capsys.readouterr()
    assert script["main"]([*command, *some, "--train", "--epochs", "2"]) == 2
    assert "is of other settings: epochs was 1, is 2; give another folder" in capsys.readouterr().err


def test_what_is_planned(script: dict[str, Any]) -> None:
    methods = sys.modules["pareto_parts.methods"]
    trainings, found = methods.plan(methods.Strengths(), 14 * 14)
    assert len(trainings) == 1 + 3 + 2 + 5 + 5 + 2
    assert {one.training for one in found} == set(trainings)
    assert {one.method for one in found} == set(methods.METHODS.values())
    assert len({one.name for one in found}) == len(found)
    assert [one.label for one in found if one.method == "ToMe"] == ["r=4", "r=8", "r=11", "r=13", "r=15"]
    assert [methods.merged(r, 7 * 7) for r in (1, 4, 15)] == [1, 1, 4]
    data, backbone = {"root": "x"}, {"name": "vit_tiny_patch16_224", "weights": "none"}
    runs = {name: training.run(data, backbone, 3, ["train.epochs=10"]) for name, training in trainings.items()}
    assert all((run.train.seed, run.train.epochs) == (3, 10) for run in runs.values())
    assert runs["budgets"].train.budgets
    assert (runs["rate0.3"].model.objective.rate, runs["rate0.3"].model.objective.control) == (0.3, "threshold")
    assert runs["evit0.9"].model.reducer.keep == 0.9  # type: ignore[union-attr]
    assert runs["static"].model.reducer is None
    assert runs["linear"].model.adapter.type == "none"


def test_a_reducer_is_put_into_the_trained_model(script: dict[str, Any]) -> None:
    """With no pair to merge it is the same model; with some it is not."""
    methods = sys.modules["pareto_parts.methods"]
    spec = dyt.preset("static_adapter_vtab").model_dump(mode="json")
    spec |= {"backbone": {"name": "vit_tiny_patch16_224", "weights": "none", "args": SMALL}, "head": {"num_classes": 3}}
    model = dyt.build(spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    images = torch.randn(2, 3, 32, 32)
    none, some = (methods.with_reducer(copy.deepcopy(model), {"type": "tome", "r": r}).eval() for r in (0, 4))
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(none(images), expected)
        assert (some(images) - expected).abs().max() > 1e-4


def test_what_is_beaten(script: dict[str, Any]) -> None:
    figures = sys.modules["pareto_parts.figures"]

    def row(accuracy: float, gmacs: float) -> Any:
        return figures.Row("m", "", Spread(accuracy, None, 1), 1.0, gmacs, 1.0, {}, None)

    rows = [row(0.5, 1.0), row(0.6, 1.0), row(0.6, 0.9), row(0.4, 0.5), row(0.4, 0.5)]
    assert [figures.beaten(each, rows) for each in rows] == [True, True, False, False, False]


def test_every_method(script: dict[str, Any], command: list[str], tmp_path: Path, pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("full"):
        pytest.skip("--full")
    assert script["main"]([*command, "--seeds", "0", "1", "--train", "--eval", "--time", "--report"]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert all(f"| {method} |" in text for method in sys.modules["pareto_parts.methods"].METHODS.values())
