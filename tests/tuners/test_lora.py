"""`lora`: what it computes, where it stands, and what it refuses."""

import copy
import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

import dyt
from dyt.families import ViT
from dyt.io.checkpoint import stored
from dyt.tuners import lora
from laws.models import TINY, Case, shaken, spec

CASE = Case(TINY, (32, 32), 2, 0)


def lora_model(**fields: Any) -> dyt.DynamicModel:
    return dyt.build(spec(tuner={"type": "lora", **fields}), backbone=CASE.backbone())


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2.0, 0.5), (6, 1.5)])
def test_it_is_the_plain_model_with_the_weights_updated(alpha: float | None, scale: float) -> None:
    """W + (alpha / rank) B A, written out on a plain backbone."""
    model = lora_model(rank=4, alpha=alpha, targets=["attn.qkv", "mlp.fc2"])
    shaken(model)
    state = {key.removeprefix("tuner."): tensor.detach() for key, tensor in stored(model).items()}
    backbone = CASE.backbone()
    backbone.head.load_state_dict(model.backbone.head.state_dict())
    with torch.no_grad():
        for i, block in enumerate(backbone.blocks):
            for name in ("attn.qkv", "mlp.fc2"):
                a, b = (state[f"blocks.{i}.{name}.lora_{part}.weight"] for part in "AB")
                assert a.shape[0] == b.shape[1] == 4
                block.get_submodule(name).weight += scale * b @ a
        without = dyt.build(spec(adapter="none", dispatcher="always"), backbone=backbone)
        with dyt.execution(model, "complete"):
            for site in model.sites:
                nn.init.zeros_(site.adapter.up.weight)
                nn.init.zeros_(site.adapter.up.bias)
            torch.testing.assert_close(model(CASE.images()), without(CASE.images()), atol=2e-5, rtol=2e-5)


def test_the_stored_keys_do_not_tell_peft_s_nesting() -> None:
    keys = {key for key in stored(lora_model()) if key.startswith("tuner.")}
    assert keys == {f"tuner.blocks.{i}.attn.qkv.lora_{part}.weight" for i in range(2) for part in "AB"}


def test_every_block_has_it_dispatched_or_not() -> None:
    layered = spec(variant={"type": "mlp", "layers": [1]}, tuner="lora")
    model = dyt.build(layered, backbone=CASE.backbone())
    assert len(model.sites) == 1
    assert {key for key in stored(model) if key.startswith("tuner.")} == {
        key for key in stored(lora_model()) if key.startswith("tuner.")
    }


def test_dropout_is_drawn_in_training_only() -> None:
    model, x = shaken(lora_model(dropout=0.5, targets=["mlp.fc1"]), 0.5), CASE.images()
    with torch.no_grad(), dyt.execution(model, "complete"):
        assert torch.equal(model(x), model(x))
        model.train()
        for site in model.sites:
            site.adapter.eval()
        assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("training", [True, False])
def test_the_backbone_s_mode_is_kept(training: bool) -> None:
    backbone = CASE.backbone().train(training)
    model = dyt.build(spec(tuner={"type": "lora", "dropout": 0.1}), backbone=backbone)
    assert {module.training for module in model.modules()} == {training}


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["attn.q"], "blocks.0 has no Linear 'attn.q'; allowed: attn.proj, attn.qkv, mlp.fc1, mlp.fc2"),
        (["attn"], "blocks.0 has no Linear 'attn'"),
        (["attn.qkv", "norm1"], "blocks.0 has no Linear 'norm1'"),
    ],
)
def test_a_target_that_is_not_there_is_refused_and_nothing_changed(targets: list[str], words: str) -> None:
    backbone = CASE.backbone()
    modules = list(backbone.modules())
    with pytest.raises(dyt.UnsupportedError, match="tuner 'lora' is not available for VisionTransformer") as caught:
        dyt.build(spec(tuner={"type": "lora", "targets": targets}), backbone=backbone)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [id(m) for m in backbone.modules()] == [id(m) for m in modules]
    assert not hasattr(backbone, "peft_config")


class Uncalled(nn.Module):
    """As timm's BEiT and EVA: the biases of q, k and v are joined by hand, and qkv is read but not called."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
        self.q_bias = nn.Parameter(torch.zeros(8))


def test_a_layer_that_is_read_but_not_called_is_refused() -> None:
    backbone = CASE.backbone()
    backbone.blocks[1].attn = Uncalled()
    with pytest.raises(dyt.UnsupportedError, match=r"blocks\.1 reads the weight of 'attn\.qkv' without calling it"):
        dyt.build(spec(tuner="lora"), backbone=backbone)
    assert ViT().uncalled(CASE.backbone().blocks[0]) == []
    parallel = nn.Module()
    parallel.in_proj, parallel.qkv_bias = nn.Linear(8, 8), nn.Parameter(torch.zeros(8))
    assert ViT().uncalled(parallel) == ["in_proj"]


def test_a_missing_peft_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(lora, "find_spec", lambda name: None if name == "peft" else found(name))
    with pytest.raises(
        dyt.UnsupportedError, match=r"tuner 'lora' .* needs the package peft.*pip install 'dyt\[lora\]'$"
    ):
        lora_model()


@pytest.mark.parametrize(
    "fields", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": []}, {"targets": ["a", "a"]}]
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(dyt.SpecError, match=rf"^tuner\.{next(iter(fields))}: "):
        dyt.build({"tuner": {"type": "lora", **fields}})


def test_a_copy_of_the_backbone_without_it_is_still_plain() -> None:
    plain = CASE.backbone()
    dyt.build(spec(tuner="lora"), backbone=copy.deepcopy(plain))
    assert not any("lora" in key for key in plain.state_dict())
