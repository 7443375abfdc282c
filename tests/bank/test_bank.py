"""A bank gives each image what its task's own model gives, in whatever mix."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.testing import assert_close

import dyt

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}
X = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def plain(seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(**ARGS).eval()


def tuned(seed: int, classes: int, backbone: Any = None, **fields: Any) -> dyt.DynamicModel:
    """A model on a copy of the backbone, with sites and thresholds that differ from seed to seed."""
    backbone = plain() if backbone is None else copy.deepcopy(backbone)
    torch.manual_seed(seed)
    backbone.reset_classifier(classes)
    model = dyt.build({"head": {"num_classes": classes}, **fields}, backbone=backbone)
    with torch.no_grad():
        for site in model.sites:
            for parameter in site.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
            site.threshold.fill_(0.1 * seed)
    return model.eval()


@pytest.fixture
def three() -> dict[str, dyt.DynamicModel]:
    return {
        "pets": tuned(1, 3),
        "cars": tuned(2, 5, adapter={"dim": 4, "activation": "gelu"}),
        "sea": tuned(3, 1, dispatcher={"type": "topk", "rate": 0.4}, adapter={"type": "moe", "dim": 4}),
    }


def bank_of(models: dict[str, dyt.DynamicModel]) -> dyt.Bank:
    bank = dyt.Bank(plain())
    for name, model in models.items():
        bank.add(name, model)
    return bank


def test_each_image_gets_what_its_task_s_model_gives(three: dict[str, dyt.DynamicModel]) -> None:
    bank = bank_of(three)
    names = ["pets", "sea", "cars", "cars", "pets", "sea"]
    with torch.no_grad():
        for given, name, logits in zip(X, names, bank(X, names), strict=True):
            assert_close(logits, three[name](given[None])[0], atol=1e-5, rtol=1e-5)
        for name, model in three.items():
            assert_close(bank(X, name), model(X), atol=1e-5, rtol=1e-5)
    assert bank.tasks == ("pets", "cars", "sea")
    assert len(bank) == 3
    assert "cars" in bank


@pytest.mark.parametrize("variant", ["attn", "attn_mlp", "layer"])
def test_other_variants(variant: str) -> None:
    models = {name: tuned(seed, 2, variant={"type": variant}) for seed, name in enumerate("ab", 1)}
    bank, names = bank_of(models), ["a", "b", "b", "a", "a", "b"]
    with torch.no_grad():
        for given, name, logits in zip(X, names, bank(X, names), strict=True):
            assert_close(logits, models[name](given[None])[0], atol=1e-5, rtol=1e-5)


def test_thresholds_and_routes_are_each_task_s_own(three: dict[str, dyt.DynamicModel]) -> None:
    bank, names = bank_of(three), ["pets"] * 3 + ["cars"] * 3
    assert bank.model is not None
    with dyt.record(bank.model) as mixed:
        bank(X, names)
    for name, rows in (("pets", slice(0, 3)), ("cars", slice(3, 6))):
        with torch.no_grad(), dyt.record(three[name]) as alone:
            three[name](X[rows])
        for both, own in zip(mixed, alone, strict=True):
            assert torch.equal(both.active[rows], own.active)


def test_files_switching_replacing_and_removing(three: dict[str, dyt.DynamicModel], tmp_path: Path) -> None:
    dyt.save(three["cars"], tmp_path / "cars.safetensors")
    bank = bank_of({"pets": three["pets"]})
    bank.add("cars", tmp_path / "cars.safetensors")
    with torch.no_grad():
        assert_close(bank(X), three["pets"](X), atol=1e-5, rtol=1e-5)
        bank.switch("cars")
        assert_close(bank(X), three["cars"](X), atol=1e-5, rtol=1e-5)
        bank.add("cars", three["sea"])
        assert_close(bank(X), three["sea"](X), atol=1e-5, rtol=1e-5)
        bank.remove("cars")
        assert bank.tasks == ("pets",)
        assert_close(bank(X), three["pets"](X), atol=1e-5, rtol=1e-5)
    assert bank(X[:0], []) == []


def test_the_backbone_is_shared_and_models_are_left_alone(three: dict[str, dyt.DynamicModel]) -> None:
    backbone, before = plain(), three["pets"](X).detach()
    bank = dyt.Bank(backbone)
    bank.add("pets", three["pets"])
    assert bank.model is not None
    assert bank.model.backbone.patch_embed.proj.weight.data_ptr() == backbone.patch_embed.proj.weight.data_ptr()
    assert bank.model.backbone.blocks[0].mlp.fc1.weight.data_ptr() == backbone.blocks[0].mlp.fc1.weight.data_ptr()
    with torch.no_grad():
        for site in three["pets"].sites:
            site.adapter.up.weight.zero_()
    assert_close(bank(X, "pets"), before, atol=1e-5, rtol=1e-5)
    assert isinstance(backbone.blocks[0], type(plain().blocks[0]))  # still the plain model


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tuner": {"type": "bitfit"}}, "tunes the backbone itself"),
        ({"modules_to_save": ["norm"]}, "tunes the backbone itself"),
        ({"variant": {"type": "attn"}}, "its variant is attn"),
        ({"adapter": {"placement": "sequential"}}, "its adapters are sequential"),
    ],
)
def test_what_a_bank_cannot_have(three: dict[str, dyt.DynamicModel], fields: dict[str, Any], reason: str) -> None:
    bank = bank_of({"pets": three["pets"]})
    with pytest.raises(dyt.UnsupportedError, match=f"task 'new' cannot be in this bank: .*{reason}"):
        bank.add("new", tuned(4, 2, **fields))
    assert bank.tasks == ("pets",)
    with torch.no_grad():
        assert_close(bank(X), three["pets"](X), atol=1e-5, rtol=1e-5)


def test_thresholds_stay_float32_in_half_precision(three: dict[str, dyt.DynamicModel]) -> None:
    bank = bank_of(three).to(torch.bfloat16)
    bank.add("again", three["pets"])
    assert {name.rpartition(".")[2] for name, t in bank.named_buffers() if t.dtype == torch.float32} == {
        "threshold",
        "scale",
    }
    (logits,) = bank(X[:1].bfloat16(), ["again"])
    assert logits.dtype == torch.bfloat16


def test_refusals(three: dict[str, dyt.DynamicModel], tmp_path: Path) -> None:
    bank = bank_of({"pets": three["pets"]})
    with pytest.raises(dyt.UnsupportedError, match="another backbone"):
        bank.add("new", tuned(1, 2, backbone=plain(seed=9)))
    with pytest.raises(dyt.DyTError, match=r"no task 'pest'; did you mean 'pets'\?"):
        bank(X, "pest")
    with pytest.raises(dyt.DyTError, match="2 names for 6 images"):
        bank(X, ["pets", "pets"])
    with pytest.raises(dyt.DyTError, match="a task's name has letters"):
        bank.add("a.b", three["pets"])
    with pytest.raises(dyt.CheckpointError, match="no file"):
        bank.add("new", tmp_path / "none")
    with pytest.raises(dyt.UnsupportedError, match="a bank is for inference"):
        bank.train()
    with pytest.raises(dyt.DyTError, match="the bank has no tasks"):
        dyt.Bank(plain())(X)
    with pytest.raises(dyt.DyTError, match="takes the plain timm model"):
        dyt.Bank(three["pets"])
    assert bank.model is not None
    with pytest.raises(dyt.DyTError, match="call the bank"), torch.no_grad():
        bank.model(X)


FAMILIES = {
    "swin_tiny_patch4_window7_224": {"embed_dim": 32, "depths": (1, 1), "num_heads": (2, 2), "window_size": 2},
    "vit_small_patch14_reg4_dinov2": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "eva02_tiny_patch14_224": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_other_backbones_threads_and_copies(name: str) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0, img_size=32, **FAMILIES[name]).eval()
    models = {task: tuned(seed, seed + 1, backbone=backbone) for seed, task in enumerate("ab", 1)}
    bank, names = dyt.Bank(backbone), ["a", "b", "b", "a", "a", "b"]
    for task, model in models.items():
        bank.add(task, model)
    with torch.no_grad():
        for given, task, logits in zip(X, names, bank(X, names), strict=True):
            assert_close(logits, models[task](given[None])[0], atol=1e-5, rtol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        for task, logits in zip("abab", pool.map(bank, [X] * 4, "abab"), strict=True):
            assert_close(logits, bank(X, task), atol=1e-6, rtol=1e-6)
    copied = copy.deepcopy(bank)
    copied.add("c", models["a"])
    assert_close(copied(X, "c"), bank(X, "a"), atol=1e-6, rtol=1e-6)
    assert bank.tasks == ("a", "b")


def test_a_classifier_of_two_layers_is_refused() -> None:
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    backbone = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=0, **args).eval()
    with pytest.raises(dyt.UnsupportedError, match="its classifier is not one linear layer"):
        dyt.Bank(backbone).add("a", tuned(1, 2, backbone=backbone))
