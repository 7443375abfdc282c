"""torchrun with two processes on gloo gives the losses of one process with the joined batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dyt.specfile import dump_yaml
from dyt.train import RunSpec, fit

from .conftest import Runs

SCRIPT = """
import sys
from dyt.spec import parse
from dyt.specfile import read
from dyt.train import RunSpec, fit
import torch.distributed as dist
fit(parse(RunSpec, read(sys.argv[1])), sys.argv[2], progress=False)
assert dist.get_world_size() == 2
dist.destroy_process_group()
"""
SILENT: dict[str, Any] = {"adapter": {"type": "bottleneck", "dim": 4, "dropout": 0.0}}


def two_processes(run: RunSpec, tmp_path: Path) -> list[dict[str, Any]]:
    """The metrics of the run under torchrun."""
    (tmp_path / "go.py").write_text(SCRIPT)
    (tmp_path / "given.yaml").write_text(dump_yaml(run.model_dump(mode="json", exclude_unset=True)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(tmp_path / name) for name in ("go.py", "given.yaml", "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return metrics(tmp_path / "two")


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("bias", [0.3, -30.0], ids=["some active", "none active"])
def test_two_processes_equal_one(runs: Runs, tmp_path: Path, bias: float) -> None:
    dispatcher, objective = {"type": "learned", "noise": 0.0, "bias": bias}, {"features": 1.0}
    run = runs(**SILENT, dispatcher=dispatcher, objective=objective, train={"batch_size": 8, "calibrate": bias > 0})
    one_result = fit(run, tmp_path / "one", progress=False)
    two = two_processes(run, tmp_path)
    for a, b in zip(metrics(tmp_path / "one"), two, strict=True):
        for part in ("loss", "cls", "complete", "distill", "features", "rate", "active_rate", "accuracy"):
            assert b[part] == pytest.approx(a[part], abs=1e-5), part
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["test"]["images"] == one_result.test.images
    assert result["test"]["active_rate"] == pytest.approx(one_result.test.active_rate, abs=1e-3)
    assert result["calibrated_rate"] == pytest.approx(one_result.calibrated_rate, abs=1e-3)
    assert result["test"]["accuracy"] == pytest.approx(one_result.test.accuracy)
