"""Offloaded, quantised and missing weights: computed with, hashed, or refused in words; never silently wrong."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from safetensors import safe_open
from torch import Tensor, nn

import dyt
from dyt.core.offloading import at_hand, offloaded, plain_parts, plain_tensor
from dyt.io.checkpoint import fingerprint
from dyt.io.export import program
from dyt.train import start_routers
from families.zoo import ZOO
from laws.models import shaken, spec, tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
SPECS: dict[str, dict[str, Any]] = {
    "learned": {},
    "topk": {"dispatcher": {"type": "topk"}},
    "attention": {"dispatcher": {"type": "attention"}},
    "sample": {"dispatcher": {"type": "learned", "level": "sample"}},
    "random": {"dispatcher": {"type": "random"}},
    "always": {"dispatcher": {"type": "always"}},
    "moe": {"adapter": {"type": "moe", "dim": 4}},
    "scale": {"adapter": {"type": "bottleneck", "dim": 4, "scale_learnable": True}},
    "attn": {"variant": {"type": "attn"}},
    "layer": {"variant": {"type": "layer"}},
    "evit": {"reducer": {"type": "evit"}},
    "dynamicvit": {"reducer": {"type": "dynamicvit"}},
    "tome": {"reducer": {"type": "tome"}},
    "vpt": {"tuner": {"type": "vpt"}},
    "vpt_shallow": {"tuner": {"type": "vpt", "deep": False}},
    "lora": {"tuner": {"type": "lora"}},
    "bitfit": {"tuner": {"type": "bitfit"}},
    "query": {"head": {"type": "query", "num_classes": 5}},
    "pixel": {"head": {"type": "pixel", "num_classes": 5}},
}


def seen(model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    with torch.no_grad(), dyt.record(model) as routes:
        out = model(images)
    return out, [route.active for route in routes]


def same_offloaded(model: dyt.DynamicModel, images: Tensor, **how: Any) -> None:
    """Called twice: what is left behind by a call would be seen by the next."""
    out, routes = seen(model, images)
    cpu_offload(model, **how)
    for _ in range(2):
        found, taken = seen(model, images)
        torch.testing.assert_close(found, out)
        assert all(torch.equal(a, b) for a, b in zip(taken, routes, strict=True))
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("buffers", [False, True], ids=["parameters", "buffers"])
def test_an_offloaded_model_routes_and_gives_the_same(name: str, buffers: bool) -> None:
    if name == "lora":
        pytest.importorskip("peft", reason="the extra dyt[lora]")
    images = IMAGES[:, None].expand(-1, 2, -1, -1, -1) if name == "query" else IMAGES
    same_offloaded(tiny(**SPECS[name]), images, offload_buffers=buffers)


FAMILIES = ("beit", "beit shared bias", "cait", "deit3", "dinov3", "eva02", "naflexvit", "parallel")
"""Not those with relative positions, whose tables timm itself reads past their modules."""


@pytest.mark.parametrize(
    ("name", "dispatcher"),
    [
        *((name, "learned") for name in FAMILIES),
        *((name, "attention") for name in ("beit", "deit3", "dinov3", "eva02", "parallel")),
    ],
)
def test_families_read_no_weight_of_an_offloaded_backbone_past_its_module(name: str, dispatcher: str) -> None:
    animal = ZOO[name]
    backbone = animal.make()
    with torch.no_grad():  # what timm starts at zero or one would hide a weight that is not there
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    parts = {"variant": {"type": "attn_mlp"}, "dispatcher": {"type": dispatcher}}
    images = animal.images(backbone)
    same_offloaded(shaken(dyt.build(spec(backbone={"weights": "none"}, **parts), backbone=backbone)).eval(), images)


def test_swin_v2_reads_no_weight_past_its_module() -> None:
    args = {"img_size": 32, "window_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]}
    model = dyt.build(spec(backbone={"name": "swinv2_tiny_window8_256", "weights": "none", "args": args}))
    same_offloaded(shaken(model.requires_grad_(True)), IMAGES)


def test_an_offloaded_model_costs_the_same() -> None:
    model = tiny()
    expected = dyt.count_macs(model, IMAGES).tolist()
    assert dyt.count_macs(cpu_offload(model), IMAGES).tolist() == expected


def test_an_offloaded_model_is_saved_whole(tmp_path: Path) -> None:
    model, found = tiny(), {}
    dyt.save(model, tmp_path / "whole.safetensors")
    dyt.save(cpu_offload(copy.deepcopy(model)), tmp_path / "offloaded.safetensors")
    for name in ("whole", "offloaded"):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            found[name] = file.metadata()
    assert found["offloaded"] == found["whole"]


REFUSED: dict[str, Callable[[nn.Module], Any]] = {
    "optimize": dyt.optimize,
    "quantize": dyt.quantize,
    "calibrate_break_even": lambda model: dyt.calibrate_break_even(model, IMAGES),
    "export": lambda model: program(model, IMAGES),
    "start_routers": lambda model: start_routers(model, [IMAGES], 0.5),
}


@pytest.mark.parametrize("asked", REFUSED)
def test_what_reads_weights_whole_refuses_them_where_they_are_not(asked: str) -> None:
    model = cpu_offload(tiny())
    with pytest.raises(dyt.UnsupportedError, match=f"{asked}: weights of the model are offloaded by accelerate"):
        REFUSED[asked](model)
    with pytest.raises(dyt.UnsupportedError, match=f"{asked}: .* is on the meta device and has no values"):
        REFUSED[asked](tiny().to("meta"))


def test_weights_come_back_with_the_hooks() -> None:
    model = cpu_offload(tiny())
    assert offloaded(model)
    remove_hook_from_submodules(model)
    assert not offloaded(model)


def test_weights_are_at_hand_inside_and_elsewhere_after() -> None:
    linear = nn.Linear(2, 2)
    weight = linear.weight.detach().clone()
    cpu_offload(linear)
    with at_hand(linear):
        assert torch.equal(linear.weight, weight)
    assert linear.weight.is_meta


def test_missing_values_are_not_hashed_or_stored(tmp_path: Path) -> None:
    with pytest.raises(dyt.UnsupportedError, match="is on the meta device and has no values"):
        dyt.save(tiny().to("meta"), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_base_is_hashed_by_what_it_is_made_of(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="the extra dyt[int8]")
    plain = tiny()
    model = copy.deepcopy(plain)
    quantization.quantize_(model.backbone.blocks[0].mlp, quantization.Int8WeightOnlyConfig())
    first = fingerprint(model.backbone)
    assert first != fingerprint(plain.backbone)
    assert first == fingerprint(copy.deepcopy(model).backbone)
    dyt.save(model, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata()["backbone_sha256"] == first
    parts = dict(plain_parts(model.backbone.blocks[0].mlp.fc1.weight, "w"))
    next(part for part in parts.values() if part.dtype == torch.int8)[0, 0] += 1
    assert fingerprint(model.backbone) != first


def test_a_packed_tensor_is_not_stored_and_its_parts_are_told() -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="the extra dyt[int8]")
    linear = nn.Sequential(nn.Linear(8, 8))
    quantization.quantize_(linear, quantization.Int8WeightOnlyConfig())
    weight = linear[0].weight
    with pytest.raises(dyt.UnsupportedError, match="not a plain tensor, and cannot be stored"):
        plain_tensor(weight, "w")
    parts = dict(plain_parts(weight, "w"))
    assert len(parts) >= 2
    assert all(name.startswith("w.") and type(part) is Tensor for name, part in parts.items())
