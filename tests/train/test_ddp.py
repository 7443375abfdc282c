"""torchrun with two processes on gloo gives the losses of one process with the joined batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dyt.config.files import dump_yaml
from dyt.train import RunSpec, fit, recipe

from .conftest import ARGS, NAME, Runs, tensors

SCRIPT = """
import sys
from dyt.config.spec import parse
from dyt.config.files import read
from dyt.train import RunSpec, fit
import torch.distributed as dist
fit(parse(RunSpec, read(sys.argv[1])), sys.argv[2], progress=False)
assert dist.get_world_size() == 2
dist.destroy_process_group()
"""
ROUTERS = """
import json, sys
import torch
import torch.distributed as dist
import dyt
from dyt.testing.cases import tiny
from dyt.train import start_routers
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = tiny(adapter={"type": "none"}, head={"num_classes": 5})
torch.manual_seed(1 + rank)
images = [(1 + 3 * rank) * torch.randn(6, 3, 32, 32) for _ in range(2)]
start_routers(model, images, 0.4)
with torch.no_grad(), dyt.record(model) as routes:
    for batch in images:
        model(batch)
active = torch.cat([route.active[:, 1:].flatten() for route in routes]).float()
mine = torch.cat([p.flatten() for site in model.sites for p in site.dispatcher.parameters()]).detach()
both = [torch.empty_like(mine) for _ in range(2)]
dist.all_gather(both, mine)
alone = active.mean().item()
joint = active.mean()
dist.all_reduce(joint)
assert torch.equal(*both)
assert mine.any()
if rank == 0:
    open(sys.argv[1], "w").write(json.dumps({"alone": alone, "joint": joint.item() / 2}))
dist.destroy_process_group()
"""
SILENT: dict[str, Any] = {"adapter": {"type": "bottleneck", "dim": 4, "dropout": 0.0}}


def two_processes(run: RunSpec, tmp_path: Path) -> list[dict[str, Any]]:
    """The metrics of the run under torchrun."""
    (tmp_path / "given.yaml").write_text(dump_yaml(run.model_dump(mode="json", exclude_unset=True)))
    torchrun(SCRIPT, tmp_path, "given.yaml", "two")
    return metrics(tmp_path / "two")


def torchrun(script: str, folder: Path, *arguments: str) -> None:
    """The script in two processes, given paths in the folder."""
    (folder / "go.py").write_text(script)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given = [str(folder / name) for name in ("go.py", *arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *given], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("bias", [0.3, -30.0], ids=["some active", "none active"])
def test_two_processes_equal_one(runs: Runs, tmp_path: Path, bias: float, request: pytest.FixtureRequest) -> None:
    """With some tokens active the two run their steps in parts as well."""
    if not request.config.getoption("--full"):
        pytest.skip("two more processes; `.ci/run` has them, use --full")
    dispatcher, objective = {"type": "learned", "noise": 0.0, "bias": bias}, {"features": 1.0}
    run = runs(**SILENT, dispatcher=dispatcher, objective=objective, train={"batch_size": 8, "calibrate": bias > 0})
    one_result = fit(run, tmp_path / "one", progress=False)
    parts = run.model_copy(update={"train": run.train.model_copy(update={"accumulate": 2 if bias > 0 else 1})})
    two = two_processes(parts, tmp_path)
    for a, b in zip(metrics(tmp_path / "one"), two, strict=True):
        for part in ("loss", "cls", "complete", "distill", "features", "rate", "active_rate", "accuracy"):
            assert b[part] == pytest.approx(a[part], abs=1e-5), part
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["test"]["images"] == one_result.test.images
    assert result["test"]["active_rate"] == pytest.approx(one_result.test.active_rate, abs=1e-3)
    assert result["calibrated_rate"] == pytest.approx(one_result.calibrated_rate, abs=1e-3)
    assert result["test"]["accuracy"] == pytest.approx(one_result.test.accuracy)


def test_routers_start_alike_on_all_processes(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """From the images of both: about the asked share of the tokens is active over both, and not on each alone."""
    if not request.config.getoption("--full"):
        pytest.skip("two more processes; `.ci/run` has them, use --full")
    torchrun(ROUTERS, tmp_path, "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["joint"] == pytest.approx(0.4, abs=0.03)
    assert abs(found["alone"] - 0.4) > 0.06, found


def test_the_default_recipe_is_the_same_on_two_processes(
    runs: Runs, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its start to 1e-5 (steps of next to no length leave it as it is), and its first epoch's metrics."""
    if not request.config.getoption("--full"):
        pytest.skip("four more processes; use --full")
    plain = recipe("default")
    plain["model"]["backbone"] = {"name": NAME, "weights": "none", "args": {**ARGS, "depth": 4}}
    plain["model"]["objective"] |= {"features": 2.0, "teacher": "pretrained"}
    for name, lr in (("start", 1e-30), ("trained", 1e-3)):
        run = runs(**plain["model"], train={**plain["train"], "epochs": 2, "batch_size": 8, "lr": lr})
        folder = tmp_path / name
        folder.mkdir()
        fit(run, folder / "one", progress=False)
        two = two_processes(run, folder)
        compared = metrics(folder / "one") if name == "start" else metrics(folder / "one")[:1]
        assert 0.3 < compared[0]["active_rate"] < 0.9
        for a, b in zip(compared, two, strict=False):
            for part in ("loss", "cls", "features", "active_rate", "accuracy"):
                assert b[part] == pytest.approx(a[part], abs=1e-5), part
    started = [tensors(tmp_path / "start" / world / "model.safetensors") for world in ("one", "two")]
    for key, one in started[0].items():
        assert started[1][key] == pytest.approx(one, abs=1e-5), key
    assert any(started[0]["sites.blocks.0.mlp.dispatcher.router.weight"])
