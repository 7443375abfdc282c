"""The way of a token through a block is short, and it is the one that docs/one-block.md describes."""

import re
from pathlib import Path

import torch

import dyt
from calls import calls_of

PAGE = Path(__file__).parents[2] / "docs" / "one-block.md"
SPEC = {
    "backbone": {
        "name": "vit_tiny_patch16_224",
        "weights": "none",
        "args": {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32},
    },
    "head": {"num_classes": 5},
}
IMAGES, LABELS = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])


def test_a_forward_goes_through_twelve_files() -> None:
    """From the model to the branch's product and the adapter; the page's names are on the way, in its order."""
    model = dyt.build(SPEC).eval()
    with torch.no_grad():
        model(IMAGES)
        way = calls_of(lambda: model(IMAGES))
    assert len(way.files) <= 12, way.files
    assert len(way.functions) <= 36, way.functions
    named = re.findall(r"^\d+\. `([\w/]+\.py:[\w.]+)`", PAGE.read_text(), re.MULTILINE)
    assert len(named) == 10
    assert [each for each in way.functions if each in named] == named


def test_a_step_goes_through_few_functions() -> None:
    step = dyt.TuningStep(dyt.build(SPEC)).train()
    step(IMAGES, LABELS)
    way = calls_of(lambda: step(IMAGES, LABELS))
    assert len(way.files) <= 27, way.files
    assert len(way.functions) <= 86, way.functions


def test_what_is_counted() -> None:
    """Functions of dyt alone, by their qualified names, each once, and every call of them."""
    spec = dyt.DyTSpec.model_validate(SPEC)
    way = calls_of(lambda: [dyt.registry.executors.names() for _ in range(2)])
    assert way.files == ["registry.py"]
    assert "registry.py:Registry.names" in way.functions
    assert way.count >= 2
    assert calls_of(lambda: len(spec.head.type)) == ([], [], 0)
