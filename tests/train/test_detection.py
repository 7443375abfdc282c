"""A detection run from its spec to its pictures: trained, interrupted, evaluated, predicted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from dyt.cli.main import app
from dyt.config.spec import parse
from dyt.errors import SpecError
from dyt.train import RunSpec, fit, recipe, recipes
from tasks.coco_data import write
from train.conftest import tensors

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
HEAD: dict[str, Any] = {"channels": 8, "hidden": 16, "anchors": [8, 12, 16, 24, 32], "proposals": 20, "score": 0.0}


def run_of(root: Path, kind: str = "faster_rcnn", **train: Any) -> dict[str, Any]:
    return {
        "model": {
            "backbone": {"name": "vit_tiny_patch16_224", "weights": "none", "args": ARGS},
            "adapter": {"type": "bottleneck", "dim": 4},
            "head": {"type": kind, **HEAD},
            "objective": {"complete": 0.0, "distill": 0.0},
            "trainable": "full",
        },
        "data": {"task": "detection", "root": str(root), "masks": kind == "mask_rcnn", "workers": 0},
        "train": {"epochs": 2, "batch_size": 4, "lr": 1e-3, **train},
    }


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shapes") / "data")


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_a_run_from_its_spec_to_its_pictures(kind: str, shapes: Path, tmp_path: Path) -> None:
    result = fit(parse(RunSpec, run_of(shapes, kind)), tmp_path / "run", progress=False)
    assert next(iter(result.test.metrics)) == "map"
    assert ("mask_map" in result.test.metrics) == (kind == "mask_rcnn")
    assert result.test.accuracy is None
    assert 0 < result.test.gmacs <= result.test.gmacs_complete
    model = str(tmp_path / "run" / "model.safetensors")
    done = CliRunner().invoke(app, ["eval", model, "--json", "--workers", "0"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["metrics"] == pytest.approx(result.test.metrics)
    image, out = str(shapes / "images" / "test0.png"), tmp_path / "pictures"
    done = CliRunner().invoke(app, ["predict", model, image, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "active" in done.stdout
    assert {path.name for path in out.iterdir()} == {"test0_objects.png", "test0_activity.png"}
    done = CliRunner().invoke(app, ["predict", model, image, image, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    for row in map(json.loads, done.stdout.splitlines()):
        found = len(row["scores"])
        assert found > 0
        assert (row["image"], 0 < row["active_rate"] <= 1) == (image, True)
        assert Path(row["picture"]).is_file()
        assert np.array(row["boxes"]).shape == (found, 4)
        assert len(row["labels"]) == found
        assert set(row["labels"]) <= {"red", "green"}
        assert ("masks" in row) == (kind == "mask_rcnn")
        assert all(coco_mask.decode(mask).shape == (64, 48) for mask in row.get("masks", ()))


def test_another_size_than_the_backbone_s(shapes: Path, tmp_path: Path) -> None:
    """Not square, in grey; the file alone then says how a picture is prepared."""
    plain = run_of(shapes, epochs=1)
    plain["data"] |= {"size": [32, 48], "jitter": [0.5, 1.5]}
    plain["model"]["backbone"] = {**plain["model"]["backbone"], "args": {**ARGS, "in_chans": 1}}
    fit(parse(RunSpec, plain), tmp_path / "run", progress=False)
    (tmp_path / "run" / "run.yaml").unlink()
    model, image = str(tmp_path / "run" / "model.safetensors"), str(shapes / "images" / "test0.png")
    done = CliRunner().invoke(app, ["predict", model, image, "--out", str(tmp_path / "pictures")])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_an_interrupted_run_gives_the_same_model(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse(RunSpec, run_of(shapes, checkpoint_every=1))
    fit(spec, tmp_path / "whole", progress=False)

    class StopError(Exception):
        pass

    from dyt.train import loop

    kept = loop._Run._checkpoint

    def stopping(self: Any) -> None:
        kept(self)
        if self.done == 3:
            raise StopError

    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "_checkpoint", stopping)
        with pytest.raises(StopError):
            fit(spec, tmp_path / "parts", progress=False)
    fit(spec, tmp_path / "parts", progress=False)
    name = "model.safetensors"
    assert tensors(tmp_path / "whole" / name) == tensors(tmp_path / "parts" / name)


def test_specs_of_other_tasks_are_refused_in_one_line(shapes: Path) -> None:
    plain = run_of(shapes)
    for change, said in (
        ({"data": {"task": "detection", "root": "x", "augment": "none"}}, "data.augment: no such field"),
        ({"data": {"task": "detecting", "root": "x"}}, "data: no task 'detecting'"),
        ({"data": {"root": "x"}}, "data.task is 'classification', but head 'faster_rcnn' is for detection"),
        ({"train": {"label_smoothing": 0.2}}, "head 'faster_rcnn' takes no smoothed labels"),
    ):
        with pytest.raises(SpecError) as caught:
            parse(RunSpec, {**plain, **change})
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_recipe_is_whole(shapes: Path) -> None:
    assert "detection" in recipes()
    plain = recipe("detection")
    plain["data"]["root"] = str(shapes)
    run = parse(RunSpec, plain)
    assert (run.train.epochs, run.model.adapter.dim, run.model.head.type) == (12, 128, "mask_rcnn")  # type: ignore[attr-defined]
    assert run.with_classes(2).model.head.num_classes == 2
    assert parse(RunSpec, run.model_dump(mode="json")) == run
