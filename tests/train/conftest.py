"""A tiny task whose classes are colours, a tiny backbone saved to a file, and runs on them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dyt.config.spec import parse
from dyt.train import RunSpec, fit

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
NAME = "vit_tiny_patch16_224"
COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}
Runs = Callable[..., RunSpec]


def draw(root: Path, counts: dict[str, int]) -> Path:
    """Class folders of noisy colour patches."""
    noise = np.random.default_rng(0)
    for split, count in counts.items():
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(colour) + noise.normal(20, 30, (36, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def draw_masked(root: Path, test: int = 2) -> Path:
    """Red and blue halves under noise: 12 training and some test images of 48 x 40 pixels, with their masks."""
    noise = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    (root / "classes.txt").write_text("red\nblue\n")
    for split, count in (("training", 12), ("test", test)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((40, 48), np.uint8)
            mask[:, noise.integers(12, 36) :] = 1
            colours = np.array([[200, 20, 20], [20, 20, 200]])[mask] + noise.normal(0, 20, (40, 48, 3))
            mask[:4] = 255
            Image.fromarray(mask).save(root / "annotations" / split / f"{i}.png")
            Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).save(root / "images" / split / f"{i}.png")
    return root


def tensors(path: Path) -> dict[str, list[float]]:
    """The tensors of a safetensors file, comparable with ==, bit for bit."""
    return {name: tensor.flatten().tolist() for name, tensor in load_file(path).items()}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders: 24 training and 9 test images of three classes."""
    return draw(tmp_path_factory.mktemp("images"), {"train": 8, "test": 3})


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT's weights, without a head."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(1)
    save_file(timm.create_model(NAME, num_classes=0, **ARGS).state_dict(), path)
    return path


def short_run(
    images: Path, weights: Path, data: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **model: Any
) -> RunSpec:
    """Two epochs of three steps."""
    plain = {
        "model": {
            "backbone": {"name": NAME, "weights": str(weights), "args": ARGS},
            "adapter": {"type": "bottleneck", "dim": 4},
            **model,
        },
        "data": {"root": str(images), "workers": 0, **(data or {})},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.01, **(train or {})},
    }
    return parse(RunSpec, plain)


@pytest.fixture
def runs(images: Path, weights: Path) -> Runs:
    """A function that makes a short run: `runs(epochs=3, objective={...}, dispatcher={...}, data={...})`."""
    return partial(short_run, images, weights)


@pytest.fixture(scope="session")
def unbroken(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of `runs()`, finished without a break."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    fit(short_run(images, weights), out, progress=False)
    return out
