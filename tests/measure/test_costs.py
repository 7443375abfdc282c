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


def test_outside_everything_is_computed_again() -> None:
    torch = module.torch
    with ShapesOnly():
        assert not (torch.ones(2, 3) @ torch.ones(3, 2)).any()
        assert not torch.empty(4).normal_().any()
    assert torch.equal(torch.ones(2, 3) @ torch.ones(3, 2), torch.full((2, 2), 3.0))
    assert torch.empty(4).normal_().all()
