"""Images with one, two, four or six channels: read by rule, prepared, trained on, drawn; or refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import adapt_input_conv

import dyt
from commands import said
from dyt.assembly.backbone import create
from dyt.config.spec import BackboneSpec, parse
from dyt.core.data_config import channels
from dyt.errors import DyTError, UnsupportedError
from dyt.heads import Query, QuerySpec
from dyt.measure.costs import costs
from dyt.measure.plots import as_rgb
from dyt.tasks import ImageError, open_image
from dyt.tasks.bands import open_picture, size_of, tensor_of
from dyt.tasks.classification import Classification
from dyt.tasks.data import DataSpec
from dyt.tasks.layouts import files
from dyt.tasks.loading import Images
from dyt.tasks.preparation import Preparation
from dyt.train import RunSpec, fit

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
NAME = "vit_tiny_patch16_224"
DRAW = np.random.default_rng(0)


def pages(path: Path, bands: np.ndarray) -> Path:
    """A TIFF with a page for each band of (H, W, C)."""
    first, *rest = (Image.fromarray(bands[:, :, k]) for k in range(bands.shape[2]))
    first.save(path, save_all=True, append_images=rest)
    return path


def test_grey_is_read_as_one_channel(tmp_path: Path) -> None:
    grey = DRAW.integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.stack([grey] * 3, 2)).save(tmp_path / "colour.png")
    Image.merge("LA", [Image.fromarray(grey), Image.new("L", (7, 5), 255)]).save(tmp_path / "alpha.png")
    np.save(tmp_path / "array.npy", grey)
    for name in ("grey.png", "deep.png", "colour.png", "alpha.png", "array.npy"):
        found = open_picture(tmp_path / name, 1)
        assert isinstance(found, Image.Image)
        assert found.mode == "L"
        assert np.array_equal(np.asarray(found), grey), name
    assert np.array_equal(np.asarray(open_image(tmp_path / "array.npy")), np.stack([grey] * 3, 2))


@pytest.mark.parametrize("count", [2, 4, 6])
def test_bands_are_read_as_they_are(count: int, tmp_path: Path) -> None:
    bands = DRAW.integers(0, 256, (5, 7, count), dtype=np.uint8)
    np.save(tmp_path / "bands.npy", bands)
    np.save(tmp_path / "deep.npy", bands.astype(np.uint16) * 257)
    given = [tmp_path / "bands.npy", tmp_path / "deep.npy", pages(tmp_path / "pages.tif", bands)]
    if count == 4:
        each = [Image.fromarray(bands[:, :, k]) for k in range(4)]
        Image.merge("RGBA", each).save(tmp_path / "four.png")
        Image.merge("CMYK", each).save(tmp_path / "four.tif")
        given += [tmp_path / "four.png", tmp_path / "four.tif"]
    for path in given:
        found = open_picture(path, count)
        assert size_of(found) == (5, 7)
        assert torch.equal(tensor_of(found), torch.from_numpy(bands).permute(2, 0, 1)), path.name


def test_what_has_other_bands_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    with pytest.raises(ImageError, match=r"rgb\.png: 3 channels, but the model takes 6; give a file with so many"):
        open_picture(tmp_path / "rgb.png", 6)
    first = Image.new("L", (4, 4))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("L", (5, 4))])
    with pytest.raises(ImageError, match="pages of different sizes"):
        open_picture(tmp_path / "pages.tif", 2)
    np.save(tmp_path / "six.npy", np.zeros((4, 4, 6), np.uint8))
    with pytest.raises(ImageError, match="6 channels, but the model takes 3"):
        open_picture(tmp_path / "six.npy", 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((4, 4), np.float32), r"float32 \(4, 4\); expected uint8 or uint16"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(2, 4, 4, 3\)"),
        (np.zeros((0, 4), np.uint8), "without pixels"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),  # would have to be unpickled
        (b"\x93NUMPY", "cannot be read"),
        (b"", "an empty file"),
    ],
)
def test_arrays_that_are_no_images(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    for count in (1, 3, 6):
        with pytest.raises(ImageError, match=rf"a\.npy: .*{message}"):
            open_picture(path, count)


@pytest.mark.parametrize("count", [1, 4, 6])
def test_the_stem_and_the_statistics_are_adapted_as_timm_does(count: int, tmp_path: Path) -> None:
    plain = timm.create_model(NAME, num_classes=0, **ARGS)
    save_file(plain.state_dict(), tmp_path / "rgb.safetensors")
    spec = BackboneSpec(name=NAME, weights=str(tmp_path / "rgb.safetensors"), args={**ARGS, "in_chans": count})
    backbone: Any = create(spec, 3)[0]
    stem = plain.state_dict()["patch_embed.proj.weight"]
    assert torch.equal(backbone.patch_embed.proj.weight, adapt_input_conv(count, stem))
    assert channels(backbone) == count
    backbone.pretrained_cfg = {**backbone.pretrained_cfg, "mean": (0.1, 0.2, 0.6), "std": (0.2, 0.3, 0.4)}
    mean = Preparation.of(backbone).mean
    assert mean == (pytest.approx((0.3,)) if count == 1 else (0.1, 0.2, 0.6, 0.1, 0.2, 0.6)[:count])
    model = dyt.build({"backbone": spec.model_dump(), "head": {"num_classes": 3}})
    assert model.head.input_shape((32, 32)) == (count, 32, 32)
    assert Query(QuerySpec(num_classes=2), backbone).input_shape((8, 8)) == (8, count, 8, 8)


def test_costs_follow_the_channels() -> None:
    """Of a ViT with patches of 8 and 16 patches, a channel of the stem costs 16 x 64 x 32 multiply-accumulates."""

    def dense(count: int) -> int:
        backbone = {"name": NAME, "weights": "none", "args": {**ARGS, "in_chans": count}}
        return costs(parse(dyt.DyTSpec, {"backbone": backbone, "head": {"num_classes": 3}})).dense

    assert dense(6) - dense(1) == 5 * 16 * 64 * 32


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("augment", ["none", "crop"])
def test_transforms_take_any_channels(count: int, augment: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.full((20, 30, count), 77, np.uint8))
    preparation = Preparation((16, 24), (0.5,) * count, (0.25,) * count)
    for training in (True, False):
        made = Images(files("some", [path], [0]), DataSpec(root="", augment=augment), preparation, training)[0, 3][0]
        assert made.dtype == torch.uint8
        assert torch.equal(made, torch.full((count, 16, 24), 77, dtype=torch.uint8))
    expected = (77 / 255 - 0.5) / 0.25
    assert preparation.normalized(made[None]).flatten().tolist() == pytest.approx([expected] * made.numel(), rel=1e-5)


def test_timm_s_augmentations_of_grey(tmp_path: Path) -> None:
    Image.fromarray(DRAW.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path / "a.png")
    spec = DataSpec(root="", augment="timm", auto_augment="rand-m9-mstd0.5", random_erasing=1.0)
    images = Images(files("some", [tmp_path / "a.png"], [0]), spec, Preparation((16, 16), (0.5,), (0.5,)), True)
    assert {tuple(images[0, seed][0].shape) for seed in range(12)} == {(1, 16, 16)}


def test_augmentations_that_cannot_take_them_are_refused_first() -> None:
    plain = timm.create_model(NAME, num_classes=2, in_chans=6, **ARGS)
    model = dyt.build({"head": {"num_classes": 2}}, backbone=plain)
    Classification().check(model, DataSpec(root="", augment="crop"))
    with pytest.raises(UnsupportedError, match=r"data\.augment: timm takes images of 1 or 3 channels, the model 6"):
        Classification().check(model, DataSpec(root="", augment="timm"))


def test_what_is_drawn_of_them() -> None:
    six = torch.rand(6, 4, 4)
    assert torch.equal(as_rgb(six), six[:3])
    assert torch.equal(as_rgb(six[:1]), six[:1].expand(3, 4, 4))
    assert torch.equal(as_rgb(six[None, :2]), six[None, :1].expand(1, 3, 4, 4))
    assert torch.equal(as_rgb(six[:3]), six[:3])


@pytest.mark.parametrize("count", [1, 6])
def test_a_run_its_evaluation_and_its_pictures(count: int, tmp_path: Path) -> None:
    for split, some in (("train", 8), ("test", 3)):
        for k, name in enumerate(("dark", "light")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(some):
                bands = (60 + 120 * k + DRAW.normal(0, 10, (32, 32, count))).clip(0, 255).astype(np.uint8)
                pages(tmp_path / "data" / split / name / f"{i}.tif", bands)
    save_file(timm.create_model(NAME, num_classes=0, **ARGS).state_dict(), tmp_path / "rgb.safetensors")
    backbone = {"name": NAME, "weights": str(tmp_path / "rgb.safetensors"), "args": {**ARGS, "in_chans": count}}
    plain = {
        "model": {"backbone": backbone, "adapter": {"type": "bottleneck", "dim": 4}},
        "data": {"root": str(tmp_path / "data"), "workers": 0},
        "train": {"epochs": 3, "batch_size": 8, "lr": 0.01},
    }
    result = fit(parse(RunSpec, plain), tmp_path / "run", progress=False)
    file, picture = str(tmp_path / "run" / "model.safetensors"), str(tmp_path / "data" / "test" / "dark" / "0.tif")
    assert json.loads(said("eval", file, "--json"))["accuracy"] == result.test.accuracy
    assert json.loads(said("predict", file, picture, "--json"))["top"][0]["class"] in {"dark", "light"}
    said("plot", file, picture, "--out", str(tmp_path / "picture.png"))
    assert (tmp_path / "picture.png").is_file()
    model = dyt.load(file, weights=tmp_path / "rgb.safetensors")
    assert timm.data.resolve_model_data_config(model)["input_size"] == (count, 32, 32)  # type: ignore[attr-defined]
    other = tmp_path / "rgb.png"
    Image.new("RGB", (32, 32)).save(other)
    if count == 6:
        with pytest.raises(DyTError, match="3 channels, but the model takes 6"):
            said("predict", file, str(other))
