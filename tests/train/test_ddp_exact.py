"""In float64, where rounding hides nothing, a run on two processes is the run on one: all epochs, all tensors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dyt.config.files import dump_yaml
from dyt.train import recipe

from .conftest import ARGS, NAME, Runs
from .test_ddp import SCRIPT, metrics, torchrun

DOUBLE = """
import torch
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double  # what the library computes in float32 in any case
"""
ONE = SCRIPT[: SCRIPT.index("assert")]


def test_the_default_recipe_on_two_processes_is_exact(
    runs: Runs, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its dropout, starts and thresholds, router noise and a teacher as well: metrics and tensors equal to 1e-9."""
    if not request.config.getoption("--full"):
        pytest.skip("three more processes; use --full")
    plain = recipe("default")
    plain["model"]["backbone"] = {"name": NAME, "weights": "none", "args": {**ARGS, "depth": 4}}
    plain["model"]["dispatcher"]["noise"] = 0.5
    plain["model"]["objective"] |= {"features": 2.0, "teacher": "pretrained", "router_gradient": "all"}
    run = runs(**plain["model"], train={**plain["train"], "epochs": 3, "batch_size": 8})
    assert run.model.adapter.dropout > 0
    (tmp_path / "given.yaml").write_text(dump_yaml(run.model_dump(mode="json", exclude_unset=True)))
    torchrun(DOUBLE + SCRIPT, tmp_path, "given.yaml", "two")
    (tmp_path / "one.py").write_text(DOUBLE + ONE)
    command = [sys.executable, *(str(tmp_path / name) for name in ("one.py", "given.yaml", "one"))]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == 3
    assert one[0]["loss"] > one[-1]["loss"]
    for a, b in zip(one, two, strict=True):
        for part in ("loss", "cls", "features", "rate", "active_rate", "accuracy"):
            assert b[part] == pytest.approx(a[part], abs=1e-9), (a["epoch"], part)
    tensors = [load_file(tmp_path / world / "model.safetensors") for world in ("one", "two")]
    for key, tensor in tensors[0].items():
        assert tensor.dtype == torch.float64, key
        torch.testing.assert_close(tensors[1][key], tensor, rtol=0, atol=1e-9, msg=key)
    results = [json.loads((tmp_path / world / "result.json").read_text()) for world in ("one", "two")]
    assert results[0]["test"]["accuracy"] == results[1]["test"]["accuracy"]
