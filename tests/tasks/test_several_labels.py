"""Images with any number of labels: lists and Hugging Face data, their metric, a run, and what is predicted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchmetrics.functional.classification import binary_average_precision

import dyt
from commands import said
from dyt.config.spec import parse
from dyt.errors import SpecError
from dyt.tasks.classification import Labels
from dyt.tasks.data import DataSpec, open_data, open_split
from dyt.tasks.layouts import DataError
from dyt.tasks.loading import Images
from dyt.tasks.preparation import Preparation
from dyt.train import RunSpec

ARGS: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 1}
PREPARATION = Preparation((16, 16), (0.5,) * 3, (0.5,) * 3)


def lists(root: Path, names: str = "dark\nred\nblue\n", count: int = 12) -> Path:
    """Half dark, half red, some blue; what is none of it has no label."""
    root.mkdir()
    draw = np.random.default_rng(0)
    lines = []
    for i in range(count):
        labels = sorted(k for k in range(3) if (i >> k) & 1)
        pixels = draw.normal(100, 10, (16, 16, 3))
        pixels[..., 0] += 100 * (1 in labels)
        pixels[..., 2] += 100 * (2 in labels)
        pixels *= 0.3 if 0 in labels else 1.0
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"an image {i}.png")
        lines.append(f"an image {i}.png {' '.join(map(str, labels))}".strip())
    for split in ("train800val200", "test"):
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    if names:
        (root / "classes.txt").write_text(names)
    return root


def test_lists_of_several_labels(tmp_path: Path) -> None:
    spec = DataSpec(root=str(lists(tmp_path / "data")), labels="several")
    data = open_data(spec)
    assert data.classes == ("dark", "red", "blue")
    assert list(data.test.labels[:8]) == [(), (0,), (1,), (0, 1), (2,), (0, 2), (1, 2), (0, 1, 2)]
    assert data.test.paths[3].name == "an image 3.png"
    images = Images(data.test, spec, PREPARATION, training=False)
    assert [images[i, 0][1].tolist() for i in (0, 3)] == [[0, 0, 0], [1, 1, 0]]
    turned = open_split(spec, None, ("blue", "dark", "red"))
    assert turned.labels[3] == (1, 2)
    bare = open_data(DataSpec(root=str(lists(tmp_path / "bare", names="")), labels="several"))
    assert bare.classes == ("0", "1", "2")


def test_what_lists_cannot_say(tmp_path: Path) -> None:
    root = lists(tmp_path / "data")
    with pytest.raises(DataError, match=r"is not 'path label'"):
        open_data(DataSpec(root=str(root)))  # an image without a label
    (root / "test.txt").write_text("an image 1.png 0 7\n")
    with pytest.raises(DataError, match="line 1: label 7, but there are 3 classes"):
        open_data(DataSpec(root=str(root), labels="several"))
    (root / "train" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="in the layout 'folder' an image has one label"):
        open_data(DataSpec(root=str(root), format="folder", labels="several"))


def test_hugging_face_lists_of_labels(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face data needs pip install 'dyt[hf]'")
    names = datasets.ClassLabel(names=["dark", "red"])
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.Sequence(names)})
    rows = {"image": [Image.new("RGB", (4, 4))] * 3, "labels": [[0, 1], [], [1]]}
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "data")
    spec = DataSpec(root=str(tmp_path / "data"), labels="several")
    assert open_data(spec).classes == ("dark", "red")
    assert open_split(spec, None, ("red", "dark")).labels == ((1, 0), (), (0,))
    with pytest.raises(DataError, match="set it to several"):
        open_data(DataSpec(root=spec.root))


def test_the_metric_is_the_mean_average_precision() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(30, 4, generator=draw), (torch.rand(30, 4, generator=draw) > 0.6).float()
    labels[:, 3] = 0  # nothing to find
    measure = Labels(4, torch.device("cpu"))
    for part in range(3):
        measure.update(logits[part::3], labels[part::3])
    each = [float(binary_average_precision(logits[:, k].sigmoid(), labels[:, k].long())) for k in range(3)]
    assert measure.compute() == {"map": pytest.approx(sum(each) / 3)}


def test_one_label_is_measured_as_ever() -> None:
    measure = Labels(3, torch.device("cpu"))
    measure.update(torch.eye(3), torch.tensor([0, 1, 1]))
    assert next(iter(measure.compute())) == "accuracy"


def test_a_run_from_lists_to_labels_above_a_threshold(tmp_path: Path) -> None:
    root, out, weights = lists(tmp_path / "data", count=32), tmp_path / "run", tmp_path / "tiny.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARGS).state_dict(), weights)
    changes = {
        "model.backbone.args": json.dumps(ARGS),
        "model.head.loss": "bce",
        "model.objective": "{features: 0.0, distill: 1.0, complete: 1.0, asked: null}",
        "data.labels": "several",
        "data.workers": "0",
        "train.batch_size": "16",
        "train.epochs": "8",
        "train.lr": "0.02",
    }
    words = [word for field, value in changes.items() for word in ("--set", f"{field}={value}")]
    options = ["--data", str(root), "--backbone", "vit_tiny_patch16_224", "--weights", str(weights), "--out", str(out)]
    assert "map" in said("train", *options, *words)
    result = json.loads((out / "result.json").read_text())["test"]
    assert result["accuracy"] is None
    assert result["metrics"]["map"] > 0.5
    report = json.loads(said("eval", str(out / "model.safetensors"), "--json"))
    assert report["metrics"] == result["metrics"]
    model, picture = str(out / "model.safetensors"), str(root / "an image 3.png")
    every = json.loads(said("predict", model, picture, "--threshold", "0", "--json"))["labels"]
    assert {each["class"] for each in every} == {"dark", "red", "blue"}
    assert every == sorted(every, key=lambda each: -each["probability"])
    limit = every[1]["probability"]
    some = json.loads(said("predict", model, picture, "--threshold", str(limit), "--json"))["labels"]
    assert len(some) == 2
    assert "no label from 1 on" in said("predict", model, picture, "--threshold", "1")


def test_numbers_are_said_as_numbers(tmp_path: Path) -> None:
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARGS)
    save_file(plain.state_dict(), tmp_path / "tiny.safetensors")
    backbone = {"name": "vit_tiny_patch16_224", "weights": str(tmp_path / "tiny.safetensors"), "args": ARGS}
    model = dyt.build({"backbone": backbone, "head": {"num_classes": 1, "loss": "mse"}})
    torch.nn.init.constant_(model.get_classifier().bias, 7.5)
    torch.nn.init.zeros_(model.get_classifier().weight)
    dyt.save(model, tmp_path / "model.safetensors")
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    words = "predict", str(tmp_path / "model.safetensors"), str(tmp_path / "a.png")
    words = *words, "--weights", str(tmp_path / "tiny.safetensors")
    assert json.loads(said(*words, "--json"))["values"] == [7.5]
    assert said(*words) == f"{tmp_path / 'a.png'}: 7.5\n"


@pytest.mark.parametrize(
    ("head", "train", "labels", "message"),
    [
        ({}, {}, "several", r"data\.labels is several, but model\.head\.loss is cross_entropy; set it to bce"),
        ({"loss": "bce"}, {"mixup": 0.8}, "several", "mixup, cutmix and label_smoothing are of one label"),
        ({"loss": "bce"}, {"label_smoothing": 0.1}, "several", "label_smoothing are of one label"),
        ({"loss": "mse"}, {}, "one", r"train numbers with dyt\.TuningStep"),
    ],
)
def test_what_does_not_go_together(head: Any, train: Any, labels: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(RunSpec, {"model": {"head": head}, "data": {"root": "x", "labels": labels}, "train": train})
    assert parse(RunSpec, {"model": {"head": {"loss": "bce"}}, "data": {"root": "x"}, "train": {"mixup": 0.8}})
