"""Every way in which what was trained was lost, or might be: stored, or refused by name before anything is written."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.utils import parametrizations, prune

import dyt
from laws.models import TINY, Case, shaken, spec

CASE = Case(TINY, (32, 32), 2, 0)


def built(backbone: nn.Module | None = None, **changes: Any) -> dyt.DynamicModel:
    """On a copy of the case's backbone, with a small adapter."""
    adapter = {"type": "bottleneck", "dim": 4}
    given = copy.deepcopy(CASE.backbone() if backbone is None else backbone)
    return shaken(dyt.build(spec(adapter=adapter, **changes), backbone=given))


def trained(model: dyt.DynamicModel, steps: int = 2, images: torch.Tensor | None = None) -> dyt.DynamicModel:
    """A little, with everything that requires a gradient."""
    step = dyt.TuningStep(model, {"distill": 0.0}).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        loss, _ = step(CASE.images() if images is None else images, CASE.labels())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def comes_back(
    model: dyt.DynamicModel, path: Path, plain: nn.Module | None = None, images: torch.Tensor | None = None, **how: Any
) -> dyt.DynamicModel:
    """Saved and loaded, on the plain backbone that it was made on; the two answer the same."""
    dyt.save(model, path, **how)
    again = dyt.load(path, backbone=CASE.backbone() if plain is None else copy.deepcopy(plain))
    ours, theirs = model.eval().state_dict(), again.state_dict()
    assert [k for k, v in ours.items() if not torch.equal(theirs[k], v)] == []
    images = CASE.images() if images is None else images
    with torch.no_grad():
        assert torch.equal(model(images), again(images))
    return again


def keys(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())


# What is stored ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["norm"], ["blocks.1"], ["norm", "blocks.0.mlp"], ["cls_token", "patch_embed"]])
def test_modules_to_save_are_trained_and_stored(tmp_path: Path, names: list[str]) -> None:
    model = built(modules_to_save=names)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    again = comes_back(trained(model), tmp_path / "a.safetensors")
    plain = dict(CASE.backbone().named_parameters())
    listed = {k for k in plain if any(k == name or k.startswith(f"{name}.") for name in names)}
    changed = {k for k, v in model.backbone.state_dict().items() if k in plain and not torch.equal(v, before[k])}
    assert changed == listed | {"head.weight", "head.bias"}
    assert {k for k in keys(tmp_path / "a.safetensors") if k.startswith("backbone.")} == {
        f"backbone.{k}" for k in changed
    }
    assert again.spec == model.spec
    assert again.spec.modules_to_save == tuple(names)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]


def test_modules_to_save_go_with_a_tuner(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = built(tuner={"type": "lora", "rank": 2}, modules_to_save=["blocks.1", "norm"])
    comes_back(trained(model), tmp_path / "a.safetensors")
    assert "backbone.blocks.1.attn.qkv.weight" in keys(tmp_path / "a.safetensors")
    model = built(tuner="bitfit", modules_to_save="norm")
    comes_back(trained(model), tmp_path / "b.safetensors")
    assert {"backbone.norm.weight", "tuner.norm.bias"} <= keys(tmp_path / "b.safetensors")
    assert "backbone.norm.bias" not in keys(tmp_path / "b.safetensors")


@pytest.mark.parametrize("thawed", ["norm", "blocks.1", "patch_embed", ""])
def test_what_was_thawed_by_hand_is_stored(tmp_path: Path, thawed: str) -> None:
    model = built()
    model.backbone.get_submodule(thawed).requires_grad_(True)
    again = comes_back(trained(model), tmp_path / "a.safetensors")
    comes_back(again, tmp_path / "b.safetensors")  # and again, from what was loaded
    assert keys(tmp_path / "a.safetensors") == keys(tmp_path / "b.safetensors")


def test_what_was_thawed_trained_frozen_and_rounded_is_stored(tmp_path: Path) -> None:
    model = built()
    model.backbone.norm.requires_grad_(True)
    trained(model).requires_grad_(False).bfloat16()
    dyt.save(model, tmp_path / "a.safetensors")
    again = dyt.load(tmp_path / "a.safetensors", backbone=CASE.backbone().bfloat16())
    assert torch.equal(again.backbone.norm.weight, model.backbone.norm.weight)
    assert not [k for k in keys(tmp_path / "a.safetensors") if k.startswith("backbone.blocks")]


def test_frozen_weights_that_were_replaced_are_stored(tmp_path: Path) -> None:
    model = built()
    other = Case(TINY, (32, 32), 2, 7).backbone()
    model.backbone.load_state_dict(other.state_dict(), strict=False)
    comes_back(model, tmp_path / "a.safetensors")


def test_a_model_that_is_rounded_or_widened_as_a_whole_stores_no_more(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model = built().to(dtype)
        dyt.save(model, tmp_path / "a.safetensors")
        assert {k for k in keys(tmp_path / "a.safetensors") if k.startswith("backbone.")} == {
            "backbone.head.weight",
            "backbone.head.bias",
        }
        dyt.load(tmp_path / "a.safetensors", backbone=CASE.backbone().to(dtype))


def test_a_pruned_adapter_is_stored_once_the_pruning_is_made_permanent(tmp_path: Path) -> None:
    model, path = built(), tmp_path / "a.safetensors"
    up = model.sites[0].adapter.up
    prune.l1_unstructured(up, "weight", 0.5)
    with pytest.raises(
        dyt.CheckpointError, match=r"sites.blocks.0.mlp.adapter.up.weight_mask and 1 more added"
    ) as told:
        dyt.save(model, path)
    assert "\n" not in str(told.value)
    assert not path.exists()
    prune.remove(up, "weight")
    comes_back(model, path)


def test_another_number_of_classes_is_stored(tmp_path: Path) -> None:
    model = built()
    model.backbone.reset_classifier(9)  # past the model, whose spec does not follow
    shaken(model)
    again = comes_back(model, tmp_path / "a.safetensors")
    assert again.num_classes == 9


def test_a_compiled_module_is_stored_under_its_own_name(tmp_path: Path) -> None:
    model = built()
    model.backbone.blocks[0].mlp = torch.compile(model.backbone.blocks[0].mlp)
    dyt.save(model, tmp_path / "a.safetensors")
    again = dyt.load(tmp_path / "a.safetensors", backbone=CASE.backbone())
    assert torch.equal(again.sites[1].adapter.up.weight, model.sites[1].adapter.up.weight)


# Batch norms -------------------------------------------------------------------------------------------------------


def hybrid() -> nn.Module:
    """timm's hybrid of a ResNet stem, with batch norms, and a ViT, made small."""
    torch.manual_seed(0)
    args = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 32, "num_classes": 5}
    return timm.create_model("vit_small_resnet26d_224", pretrained=False, **args)


def statistics(model: nn.Module) -> list[torch.Tensor]:
    return [t.clone() for name, t in model.named_buffers() if "running" in name or "batches" in name]


@pytest.mark.parametrize("how", [{}, {"modules_to_save": ["patch_embed"]}, {"trainable": "full"}])
def test_batch_norms_stay_as_they_are_or_are_stored(tmp_path: Path, how: dict[str, Any]) -> None:
    plain = hybrid()
    model = dyt.build(spec(adapter={"type": "bottleneck", "dim": 4}, **how), backbone=copy.deepcopy(plain))
    before, images = statistics(model), torch.randn(2, 3, 32, 32)
    trained(model, 1, images)
    moved = [not torch.equal(a, b) for a, b in zip(before, statistics(model), strict=True)]
    assert moved
    assert all(moved) if how else not any(moved)
    comes_back(model, tmp_path / "a.safetensors", plain, images)


def test_frozen_batch_norms_are_in_eval_mode_from_the_start() -> None:
    model = dyt.build(spec(), backbone=hybrid().train())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert model.training
    assert model.backbone.blocks[0].training
    assert not any(norm.training for norm in norms if model.train())
    step = dyt.TuningStep(model).train()
    assert step.training
    assert not any(norm.training for norm in norms)


def test_statistics_that_moved_past_the_model_are_stored(tmp_path: Path) -> None:
    plain, images = hybrid(), torch.randn(2, 3, 32, 32)
    model = dyt.build(spec(), backbone=copy.deepcopy(plain))
    model.backbone.train()
    model(images)
    comes_back(model, tmp_path / "a.safetensors", plain, images)


# What is refused ---------------------------------------------------------------------------------------------------


def inject_lora(model: dyt.DynamicModel) -> None:
    peft = pytest.importorskip("peft")
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["fc1"]), model.backbone)


def give_a_head(model: dyt.DynamicModel) -> None:
    model.backbone.head = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 5))


def attach(model: dyt.DynamicModel) -> None:
    model.extra = nn.Linear(5, 5)


def other_activation(model: dyt.DynamicModel) -> None:
    model.backbone.blocks[1].mlp.act = nn.ReLU()


def weight_norm(model: dyt.DynamicModel) -> None:
    parametrizations.weight_norm(model.backbone.blocks[0].mlp.fc1)


REFUSED: list[tuple[Callable[[dyt.DynamicModel], Any], str]] = [
    (inject_lora, r"backbone.blocks.0.mlp.fc1.base_layer.bias and \d+ more added"),
    (lambda model: model.backbone.set_input_size(img_size=(64, 64)), "images of 64 x 64, and took 32 x 32"),
    (lambda model: model.backbone.prune_intermediate_layers([0], prune_norm=True), r"and \d+ more gone"),
    (lambda model: prune.random_unstructured(model.backbone.blocks[0].mlp.fc1, "weight", 0.5), "weight_mask"),
    (weight_norm, "parametrizations.weight"),
    (give_a_head, "the classifier is not timm's own: head.0.bias"),
    (attach, "extra.weight and 1 more would be lost"),
    (other_activation, "backbone.blocks.1.mlp.act is a ReLU, and was a GELU"),
    (lambda model: setattr(model.backbone, "global_pool", "avg"), "global_pool is 'avg', and was 'token'"),
    (lambda model: setattr(model.backbone.blocks[0], "attn", nn.Identity()), "gone"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_no_load_could_make_again_is_refused_by_name(
    tmp_path: Path, change: Callable[[dyt.DynamicModel], Any], words: str
) -> None:
    model = built()
    assert model.save_refusal() is None
    change(model)
    told = model.save_refusal()
    assert told is not None
    assert "\n" not in told
    for whole in (None, True):
        with pytest.raises(dyt.CheckpointError, match=words):
            dyt.save(model, tmp_path / "a.safetensors", whole=whole)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["nrom"], "no module or parameter 'nrom'; did you mean 'norm'"),
        (["blocks.2"], r"'blocks.2'; did you mean 'blocks.\d'\? allowed: blocks.0, blocks.1"),
        (["blocks.0.sites.mlp"], "'blocks.0.sites.mlp' is of a site"),
        (["norm_pre"], "'norm_pre' has no tensors"),
    ],
)
def test_wrong_modules_to_save_are_refused(names: list[str], words: str) -> None:
    plain = CASE.backbone()
    with pytest.raises(dyt.SpecError, match=words):
        dyt.build(spec(modules_to_save=names), backbone=plain)
    assert type(plain.blocks[0]).__name__ == "Block"
    assert all(p.requires_grad for p in plain.parameters())


def test_modules_to_save_and_what_they_do_not_go_with() -> None:
    with pytest.raises(dyt.SpecError, match="leave out it or modules_to_save"):
        dyt.build(spec(modules_to_save=["norm"], trainable="full"), backbone=CASE.backbone())
    with pytest.raises(dyt.SpecError, match="without a tuner, modules_to_save or trainable: full"):
        dyt.build(spec(modules_to_save=["norm"], objective={"teacher": "pretrained"}), backbone=CASE.backbone())
    for nothing in (None, []):
        assert dyt.DyTSpec.model_validate({"modules_to_save": nothing}).modules_to_save == ()


# The whole backbone ------------------------------------------------------------------------------------------------


def test_the_whole_backbone_may_be_stored(tmp_path: Path) -> None:
    made = {"name": "vit_tiny_patch16_224", "weights": "none", "args": TINY}
    model, path = shaken(dyt.build(spec(backbone=made))), tmp_path / "a.safetensors"
    dyt.save(model, path, whole=True)
    again = dyt.load(path)
    dyt.save(again, tmp_path / "b.safetensors")  # a file that is rewritten, by dyt.calibrate say, stays whole
    for loaded in (again, dyt.load(tmp_path / "b.safetensors")):
        with torch.no_grad():
            assert torch.equal(loaded(CASE.images()), model(CASE.images()))
    dyt.save(again, tmp_path / "c.safetensors", whole=False)
    with pytest.raises(dyt.CheckpointError, match=r"give load\(..., backbone=\)"):
        dyt.load(tmp_path / "c.safetensors")
    assert (tmp_path / "c.safetensors").stat().st_size < path.stat().st_size / 2
    with pytest.raises(dyt.CheckpointError, match="has its whole backbone, and takes no weights"):
        dyt.load(path, weights="pretrained")
    comes_back(again, tmp_path / "d.safetensors", timm.create_model(made["name"], num_classes=5, **TINY))


# Another image size ------------------------------------------------------------------------------------------------


def test_a_file_loads_at_another_image_size(tmp_path: Path) -> None:
    model, path = built(), tmp_path / "a.safetensors"
    dyt.save(model, path)
    larger = CASE.backbone()
    larger.set_input_size(img_size=(48, 48))
    again = dyt.load(path, backbone=copy.deepcopy(larger))
    assert again.spec.backbone.args["img_size"] == [48, 48]
    assert torch.equal(again.backbone.pos_embed, larger.pos_embed)
    assert all(
        torch.equal(a.adapter.up.weight, b.adapter.up.weight) for a, b in zip(model.sites, again.sites, strict=True)
    )
    images = torch.randn(2, 3, 48, 48)
    comes_back(again, tmp_path / "b.safetensors", larger, images)
    with torch.no_grad():
        larger.blocks[0].mlp.fc1.bias += 1
    with pytest.raises(dyt.CheckpointError, match="another backbone"):
        dyt.load(path, backbone=larger)
    other = CASE.backbone()
    with torch.no_grad():
        other.pos_embed += 1  # of the same size, and not what was resampled
    with pytest.raises(dyt.CheckpointError, match="another backbone"):
        dyt.load(path, backbone=other)
