"""`dyt.merge`: a plain timm model with the same outputs, or what keeps it from being one."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import dyt
from dyt.model.dynamic import DynamicModel
from laws.models import TINY, shaken

NAME, SIZE = "vit_tiny_patch16_224", {"num_classes": 5, **TINY}
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="tuner lora needs pip install 'dyt[lora]'")
LORA = {"type": "lora", "rank": 2, "alpha": 5.0, "targets": ["attn.qkv", "mlp.fc2"]}


def model_of(**changes: Any) -> DynamicModel:
    """Trained, as it were: every trained tensor is moved away from its start."""
    made = {"name": NAME, "weights": "none", "args": TINY}
    torch.manual_seed(0)
    spec = {"backbone": made, "head": {"num_classes": 5}, "dispatcher": "always", "adapter": "none", **changes}
    return shaken(dyt.build(spec))


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"tuner": LORA}, marks=needs_peft),
        pytest.param({"tuner": LORA, "modules_to_save": ["norm", "cls_token"]}, marks=needs_peft),
        {"tuner": "bitfit"},
        {},
        {"trainable": "full"},
    ],
    ids=["lora", "lora and norm", "bitfit", "linear", "full"],
)
def test_a_merged_model_is_timm_s_and_computes_the_same(changes: dict[str, Any], tmp_path: Path) -> None:
    model, x = model_of(**changes), images()
    if changes.get("tuner") == LORA:
        dyt.save(model, tmp_path / "a.safetensors", whole=True)
        model = dyt.load(tmp_path / "a.safetensors")
    before = copy.deepcopy(model.state_dict())
    merged = dyt.merge(model)
    assert type(merged) is type(timm.create_model(NAME, **SIZE))
    assert not merged.training
    assert not {t.data_ptr() for t in merged.state_dict().values()} & {t.data_ptr() for t in before.values()}
    again = timm.create_model(NAME, **SIZE).eval()
    again.load_state_dict(merged.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(merged(x), model(x), atol=1e-5, rtol=1e-5)
        assert torch.equal(again(x), merged(x))
        merged.patch_embed.proj.weight.zero_()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in merged.parameters())


@needs_peft
def test_in_a_lower_precision_the_merged_weights_are_rounded_to_it() -> None:
    model = model_of(tuner=LORA).bfloat16()
    layer = model.backbone.blocks[0].attn.qkv
    a, b = (getattr(layer, f"lora_{part}").default.weight.float() for part in "AB")
    wanted = (layer.base_layer.weight.float() + 2.5 * b @ a).detach()
    found = dyt.merge(model).blocks[0].attn.qkv.weight
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=2**-7 * float(wanted.abs().max()), rtol=0)


@needs_peft
def test_an_update_that_was_merged_or_switched_off_by_hand_stays_so() -> None:
    model, x = model_of(tuner=LORA), images()
    with torch.no_grad():
        model.backbone.blocks[0].attn.qkv.merge()
        model.backbone.blocks[1].attn.qkv.enable_adapters(False)
        wanted = model(x)
        torch.testing.assert_close(dyt.merge(model)(x), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dispatcher": "learned"}, "dispatcher 'learned' may skip tokens; no plain model does. dyt export writes"),
        ({"adapter": "bottleneck"}, "adapter 'bottleneck' adds a branch to each block; no plain model does"),
        ({"adapter": "moe", "dispatcher": "random"}, "'random' may skip tokens; adapter 'moe' adds a branch to each"),
        ({"reducer": "tome"}, "reducer 'tome' takes tokens out between the blocks"),
        ({"tuner": "vpt"}, "its prompts are tokens, which cannot be merged"),
        ({"backbone": {"name": NAME, "weights": "none", "args": TINY, "window_size": 2}}, "attention within windows"),
        ({"head": {"type": "query", "num_classes": 5}}, "head 'query' stands behind the backbone"),
    ],
)
def test_what_no_plain_model_has_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    model = model_of(**changes)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(dyt.UnsupportedError) as caught:
        dyt.merge(model)
    assert words in str(caught.value)
    assert str(caught.value).startswith("merge is not available for this model: ")
    assert str(caught.value).isprintable()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_models_that_are_none_any_more_are_refused() -> None:
    model = model_of()
    with pytest.raises(dyt.UnsupportedError, match="unwrap the one that it was made from"):
        dyt.merge(dyt.optimize(model))
    dyt.unwrap(model)
    with pytest.raises(dyt.UnsupportedError, match="taken apart already"):
        dyt.merge(model)
    with pytest.raises(dyt.UnsupportedError, match=r"merge: .* is on the meta device"):
        dyt.merge(model_of().to("meta"))
    with pytest.raises(dyt.DyTError, match="DynamicModel"):
        dyt.merge(torch.nn.Linear(2, 2))
