"""Three tiny tasks in the standard list layout, two of VTAB-1K and one beside it, and a tiny backbone's weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from dyt.config.spec import parse
from dyt.train import RunSpec

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
NAME = "vit_tiny_patch16_224"


def lists(folder: Path, train: int = 16, test: int = 4) -> Path:
    """A task of two classes, bright and dark."""
    noise = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for split, count in (("train800val200", train), ("test", test)):
        rows = []
        for i in range(count):
            pixels = np.clip(200 * (i % 2) + noise.normal(20, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"images/{split}{i}.png")
            rows.append(f"images/{split}{i}.png {i % 2}")
        (folder / f"{split}.txt").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("caltech101", "oxford_flowers102", "ours"):
        lists(tmp_path / "vtab" / name)
    return tmp_path / "vtab"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(1)
    save_file(timm.create_model(NAME, num_classes=0, **ARGS).state_dict(), path)
    return path


@pytest.fixture
def run(root: Path, weights: Path) -> RunSpec:
    """A run of two epochs on caltech101."""
    plain = {
        "model": {"backbone": {"name": NAME, "weights": str(weights), "args": ARGS}},
        "data": {"root": str(root / "caltech101"), "format": "vtab", "workers": 0},
        "train": {"epochs": 2, "batch_size": 8},
    }
    return parse(RunSpec, plain)
