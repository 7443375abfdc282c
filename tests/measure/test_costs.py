"""A spec's costs: counting shapes alone gives what executing gives."""

from typing import Any

import pytest

import dyt
from dyt.measure import costs as module
from dyt.measure.costs import costs
from dyt.measure.shapes import ShapesOnly

BACKBONE = {"name": "vit_tiny_patch16_224", "weights": "none", "args": {"depth": 3, "img_size": 64}}
SWIN = {"name": "swin_tiny_patch4_window7_224", "weights": "none", "args": {"embed_dim": 24, "depths": [1, 1, 2, 1]}}
SPECS: dict[str, dict[str, Any]] = {
    **{variant: {"variant": variant} for variant in ("attn", "attn_mlp", "layer", "mlp")},
    "moe": {"adapter": "moe"},
    "sample level": {"dispatcher": {"type": "learned", "level": "sample"}},
    "by attention": {"dispatcher": "attention", "variant": "layer"},
    "lora": {"tuner": "lora"},
    "prompts": {"tuner": "vpt"},
    **{reducer: {"reducer": reducer, "dispatcher": "always"} for reducer in ("tome", "evit", "dynamicvit")},
    "tome and dyt": {"reducer": "tome"},
    "swin": {"backbone": SWIN},
    "clips": {"head": {"type": "query", "num_classes": 5}},
    "masks": {"head": {"type": "pixel", "num_classes": 5}},
    "boxes": {"head": {"type": "faster_rcnn", "num_classes": 5}, "objective": {"complete": 0.0, "distill": 0.0}},
}


@pytest.mark.parametrize("name", SPECS)
def test_shapes_alone_cost_what_is_executed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "lora":
        pytest.importorskip("peft")
    spec = dyt.DyTSpec.model_validate({"backbone": BACKBONE, "objective": {"rate": 0.4}} | SPECS[name])
    found = costs(spec)
    with monkeypatch.context() as patched:
        patched.setattr(module, "ShapesOnly", module.torch.no_grad)
        executed = costs(spec)
    assert found == executed
    assert found.dense > 0


def test_a_clip_costs_its_frames_and_the_head() -> None:
    images, clips = (
        costs(dyt.DyTSpec.model_validate({"backbone": BACKBONE, "head": head}))
        for head in ({"num_classes": 5}, {"type": "query", "num_classes": 5})
    )
    channels, tokens = 192, 8 * 17
    keys_and_values, attention, classes = 2 * channels * channels * tokens, 2 * channels * tokens, channels * 5
    head = keys_and_values + attention + classes
    assert clips.head_macs == head
    assert clips.dense == 8 * (images.dense - images.head_macs) + head
    assert clips.complete - clips.dense == 8 * (images.complete - images.dense)
    assert clips.trainable == images.trainable
    assert clips.head > 2 * channels * channels


def test_outside_everything_is_computed_again() -> None:
    torch = module.torch
    with ShapesOnly():
        assert not (torch.ones(2, 3) @ torch.ones(3, 2)).any()
        assert not torch.empty(4).normal_().any()
    assert torch.equal(torch.ones(2, 3) @ torch.ones(3, 2), torch.full((2, 2), 3.0))
    assert torch.empty(4).normal_().all()
