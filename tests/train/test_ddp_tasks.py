"""Video, segmentation and detection under torchrun: what two processes measure together is what one measures alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from dyt.train import evaluate
from dyt.train.saved import open_saved
from tasks.coco_data import write
from tasks.video.conftest import film

from .conftest import ARGS, NAME, draw_masked
from .test_ddp import torchrun

SCRIPT = """
import json, sys
from pathlib import Path
from dyt.config.spec import parse
from dyt.train import RunSpec, fit
import torch.distributed as dist
folder = Path(sys.argv[1])
for name, run in json.loads((folder / "runs.json").read_text()).items():
    fit(parse(RunSpec, run), folder / name, progress=False)
    assert dist.get_world_size() == 2
dist.destroy_process_group()
"""
HEAD: dict[str, Any] = {"channels": 8, "hidden": 16, "anchors": [8, 12, 16, 24, 32], "proposals": 20, "score": 0.0}


def films(root: Path) -> Path:
    for name, count in {"train": 8, "test": 5}.items():
        listed = []
        for i in range(count):
            path = film(root / name / f"{i}.mp4", 9, ((200, 20, 20), (20, 20, 200))[i % 2])
            listed.append(f"{path.relative_to(root)} {i % 2}\n")
        (root / f"{name}.txt").write_text("".join(listed))
    return root


def test_two_processes_measure_what_one_does(weights: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("two processes for each task; `.ci/run` has them, use --full")
    pytest.importorskip("pycocotools", reason="the extra dyt[detection]")
    tasks = {
        "video": (films(tmp_path / "films"), {"type": "query"}, 5),
        "segmentation": (draw_masked(tmp_path / "masked", test=3), {"type": "pixel"}, 3),
        "detection": (write(tmp_path / "shapes", train=8, test=5), {"type": "faster_rcnn", **HEAD}, 5),
    }
    runs = {
        task: {
            "model": {
                "backbone": {"name": NAME, "weights": str(weights), "args": ARGS},
                "adapter": {"type": "bottleneck", "dim": 4},
                "head": head,
                "objective": {"complete": 0.0, "distill": 0.0},
            },
            "data": {"task": task, "root": str(root), "workers": 0},
            "train": {"epochs": 1, "batch_size": 4, "lr": 0.01},
        }
        for task, (root, head, _) in tasks.items()
    }
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    torchrun(SCRIPT, tmp_path, ".")
    for task, (_, _, count) in tasks.items():
        joint = json.loads((tmp_path / task / "result.json").read_text())["test"]
        saved = open_saved(tmp_path / task / "model.safetensors")
        spec = saved.spec(None)
        split = saved.split(spec, None)
        batches = saved.batches(spec, split, range(len(split)))
        alone = evaluate(saved.model, batches, task=saved.task, spec=spec, classes=saved.names)
        assert joint["images"] == alone.images == count
        for name in ("accuracy", "active_rate", "gmacs", "gmacs_dense", "gmacs_head"):
            assert joint[name] == pytest.approx(getattr(alone, name), abs=1e-6), (task, name)
        assert joint["metrics"] == pytest.approx(alone.metrics, abs=1e-6), task
