"""Images of another size than the backbone's: the backbone follows, and its file says at what size it was trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config  # type: ignore[attr-defined]

import dyt
from commands import said
from dyt.assembly.backbone import input_size
from dyt.assembly.image_size import check_size, sized
from dyt.cli.export import _inputs
from dyt.config.spec import BackboneSpec
from dyt.errors import CheckpointError, DyTError, UnsupportedError
from dyt.train import fit
from dyt.train.saved import open_saved

from .conftest import ARGS, NAME, Runs

SHORT: dict[str, Any] = {"epochs": 1}


@pytest.mark.parametrize(
    ("size", "args"),
    [(48, ARGS), ((32, 48), ARGS), ((24, 40), {**ARGS, "dynamic_img_size": True})],
    ids=["larger", "not square", "dynamic"],
)
def test_the_backbone_follows_and_the_file_remembers(
    size: Any, args: dict[str, Any], runs: Runs, weights: Path, images: Path, tmp_path: Path
) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    backbone = {"name": NAME, "weights": str(weights), "args": args}
    result = fit(runs(data={"size": size}, train=SHORT, backbone=backbone), tmp_path / "run", progress=False)
    for name in ("run.yaml", "classes.txt"):  # what a file alone can do
        (tmp_path / "run" / name).unlink()
    file = str(tmp_path / "run" / "model.safetensors")
    model = dyt.load(file, trust_paths=[weights])
    assert input_size(model.backbone) == (height, width)
    config = resolve_model_data_config(model)
    assert config["input_size"] == (3, height, width)
    assert (config["crop_pct"], config["crop_mode"], config["interpolation"]) == (1.0, "squash", "bicubic")
    assert model.data_config is not None
    assert model.data_config.label_names == ("blue", "green", "red")
    there = ("--weights", str(weights))
    report = json.loads(said("eval", file, "--data", str(images), "--json", *there))
    assert report == json.loads((tmp_path / "run" / "result.json").read_text())["test"]
    assert report["accuracy"] == result.test.accuracy
    picture = str(images / "test" / "red" / "0.png")
    top = json.loads(said("predict", file, picture, "--json", *there))["top"]
    assert {"blue", "green", "red"} >= {top[0]["class"]}
    said("plot", file, picture, "--out", str(tmp_path / "picture.png"), *there)
    for given in ([], [Path(picture)]):
        assert _inputs(model, given, Path(file))[0].shape[1:] == (3, height, width)


def test_timm_prepares_an_image_as_the_run_did(runs: Runs, images: Path, tmp_path: Path) -> None:
    """Through what timm reads off the loaded model, and through this library's own way: the same tensor."""
    fit(runs(data={"size": 40}, train=SHORT), tmp_path / "run", progress=False)
    saved = open_saved(tmp_path / "run" / "model.safetensors")
    split = saved.split(saved.spec(None), None)
    ours, _ = next(saved.batches(saved.spec(None), split, [0]))
    theirs = create_transform(**resolve_model_data_config(saved.model))
    with Image.open(split.paths[0]) as image:
        torch.testing.assert_close(theirs(image.convert("RGB"))[None], ours.cpu(), rtol=0, atol=1e-5)


def test_position_embeddings_are_resampled_as_timm_does(weights: Path) -> None:
    spec = sized(BackboneSpec(name=NAME, weights=str(weights), args=ARGS), (48, 32))
    assert spec.args["img_size"] == [48, 32]
    ours = dyt.build({"backbone": spec.model_dump(), "head": {"num_classes": 3}}).backbone
    theirs = timm.create_model(NAME, num_classes=3, **ARGS)
    theirs.load_state_dict(timm.models.load_state_dict(str(weights)), strict=False)
    theirs.set_input_size((48, 32))
    torch.testing.assert_close(ours.pos_embed, theirs.pos_embed)


def test_what_fits_already_stays_as_it_is() -> None:
    for args in (ARGS, {**ARGS, "dynamic_img_size": True}):
        spec = BackboneSpec(name=NAME, weights="none", args=args)
        assert sized(spec, (32, 32)) is spec
    assert sized(spec, (40, 24)) is spec  # of any size
    assert sized(BackboneSpec(name=NAME, weights="none"), (96, 96)).args == {"img_size": 96}


@pytest.mark.parametrize(
    ("name", "args", "size"),
    [
        (NAME, ARGS, (4, 4)),  # less than a patch
        (NAME, {**ARGS, "dynamic_img_size": True}, (36, 32)),  # no multiple of one
    ],
)
def test_a_size_that_cannot_be_had_is_one_line(name: str, args: dict[str, Any], size: tuple[int, int]) -> None:
    with pytest.raises(UnsupportedError, match=rf"data\.size is {size[0]} x {size[1]}, which {name} cannot be given"):
        sized(BackboneSpec(name=name, weights="none", args=args), size)


def test_images_of_another_size_are_refused_before_they_are_run() -> None:
    backbone = timm.create_model(NAME, num_classes=3, **ARGS)
    with pytest.raises(
        UnsupportedError, match=r"data\.size is 40 x 48, but the backbone takes images of 32 x 32 alone"
    ):
        check_size(backbone, (40, 48))
    check_size(backbone, (32, 32))
    check_size(timm.create_model(NAME, **ARGS, dynamic_img_size=True), (40, 48))


def test_files_without_it_still_load(runs: Runs, images: Path, weights: Path, tmp_path: Path) -> None:
    """A model of a loop of one's own says nothing; run.yaml and classes.txt beside it then do, as they always did."""
    fit(runs(train=SHORT), tmp_path / "run", progress=False)
    file = tmp_path / "run" / "model.safetensors"
    model = dyt.load(file, trust_paths=[weights])
    del model.backbone.data_config
    dyt.save(model, file)
    again = open_saved(file)
    assert again.model.data_config is None
    assert again.classes == ("blue", "green", "red")
    assert again.classes_from == str(tmp_path / "run" / "classes.txt")
    assert again.data is not None
    shutil.copy(file, tmp_path / "alone.safetensors")
    with pytest.raises(DyTError, match=r"give --data, the directory of the images"):
        open_saved(tmp_path / "alone.safetensors", weights=str(weights)).spec(None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("not JSON", "data_config cannot be used"),
        ('{"input_size": [3, 32, 32], "mean": [0.5], "std": [0.5]}', "one number for each of the 3 channels"),
        (
            '{"input_size": [1, 32, 32], "mean": [0.5], "std": [0.5], "label_names": ["a"]}',
            "1 label_names for 3 outputs",
        ),
        ('{"input_size": [1, 32, 32], "mean": [0.5], "std": [0.0]}', "std"),
    ],
)
def test_a_damaged_entry_is_refused(
    changed: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = timm.create_model(NAME, num_classes=3, **ARGS)
    spec = {
        "backbone": {"name": NAME, "weights": "none", "args": ARGS},
        "head": {"num_classes": 3},
        "trainable": "full",
    }
    spec["objective"] = {"complete": 0.0, "distill": 0.0}
    monkeypatch.setattr("dyt.core.data_config.entry", lambda backbone: {"data_config": changed})
    dyt.save(dyt.build(spec, backbone=plain), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        dyt.load(tmp_path / "model.safetensors")


def test_another_head_forgets_the_names(runs: Runs, weights: Path, tmp_path: Path) -> None:
    fit(runs(train=SHORT), tmp_path / "run", progress=False)
    model = dyt.load(tmp_path / "run" / "model.safetensors", trust_paths=[weights])
    assert model.pretrained_cfg["label_names"] == ("blue", "green", "red")
    model.reset_classifier(7)
    assert model.data_config is not None
    assert model.data_config.label_names is None
    assert "label_names" not in model.pretrained_cfg
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
