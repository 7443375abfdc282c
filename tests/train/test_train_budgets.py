"""`train.budgets` ends a run with a table of every rate on training images, and leaves the thresholds as they are."""

import json
from pathlib import Path

import pytest

import dyt
from commands import said
from dyt.train import fit

from .conftest import Runs


def test_a_run_ends_with_a_table(runs: Runs, weights: Path, images: Path, tmp_path: Path) -> None:
    asked = {"epochs": 1, "calibrate": True, "budgets": True}
    result = fit(runs(train=asked), tmp_path / "run", progress=False)
    model = dyt.load(tmp_path / "run" / "model.safetensors", trust_paths=[weights])
    table = model.budget_table
    assert table is not None
    assert table.reached == pytest.approx(table.rates, abs=0.02)
    assert model.budget is None
    assert result.calibrated_rate == pytest.approx(0.5, abs=0.03)
    found = json.loads(said("eval", str(tmp_path / "run"), "--split", "train", "--budget", "0.25", "--json"))
    assert found["active_rate"] == pytest.approx(0.25, abs=0.05)
