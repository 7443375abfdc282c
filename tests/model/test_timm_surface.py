"""timm's tools work on a dynamic model as on timm's own, or are refused in words."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config, resolve_model_data_config
from timm.models import group_parameters, load_checkpoint
from timm.models._features import FeatureGetterNet, FeatureHookNet
from timm.models._features_fx import FeatureGraphNet
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3, freeze, get_state_dict, reparameterize_model, unwrap_model
from torch import nn

import dyt
from dyt.model.timm_names import FORWARDED, OURS, REFUSED
from laws.models import CLASSES, TINY, shaken, spec, tiny, tiny_backbone

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(2)


def plain(name: str = "vit_tiny_patch16_224", **args: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=CLASSES, **(TINY | args)).eval()


def dynamic(**args: Any) -> dyt.DynamicModel:
    """With fresh adapters: with every token active it computes what `plain` does."""
    return dyt.build(
        spec(backbone={"weights": "none"}, adapter={"type": "bottleneck", "dim": 4}), backbone=plain(**args)
    )


def test_every_public_name_of_timms_class_is_in_one_table() -> None:
    there = {name for name in dir(plain()) if not name.startswith("_")} - set(dir(nn.Module()))
    tables = [set(FORWARDED), set(OURS), set(REFUSED)]
    assert sum(map(len, tables)) == len(set().union(*tables)), "a name is in two tables"
    assert there | {"forward"} <= set().union(*tables)


@pytest.mark.parametrize("name", FORWARDED)
def test_what_is_forwarded_is_the_backbones_own_and_read_only(name: str) -> None:
    model = dynamic(reg_tokens=1)
    if not hasattr(model.backbone, name):  # a name of a newer timm
        assert not hasattr(model, name)
        return
    value = getattr(model, name)
    assert value is getattr(model.backbone, name) or value == getattr(model.backbone, name)
    with pytest.raises(AttributeError):
        setattr(model, name, None)


def test_forwarding_adds_no_keys() -> None:
    assert all(key.startswith("backbone.") for key in dynamic().state_dict())


@pytest.mark.parametrize("name", OURS)
def test_what_is_ours_is_there(name: str) -> None:
    assert hasattr(dynamic(), name)


@pytest.mark.parametrize("name", REFUSED)
def test_what_writes_over_frozen_weights_is_refused(name: str) -> None:
    with pytest.raises(dyt.UnsupportedError, match=f"{name} would write over the backbone's weights"):
        getattr(dynamic(), name)()


def test_configurations() -> None:
    model, backbone = dynamic(), plain()
    assert model.default_cfg == model.pretrained_cfg == backbone.pretrained_cfg
    assert resolve_model_data_config(model) == resolve_model_data_config(backbone)
    assert resolve_data_config({}, model=model) == resolve_data_config({}, model=backbone)
    if hasattr(timm.models, "get_model_input_config"):
        assert timm.models.get_model_input_config(model) == timm.models.get_model_input_config(backbone)


@pytest.mark.parametrize("coarse", [False, True])
def test_layers_are_grouped_as_timm_groups_them(coarse: bool) -> None:
    model, backbone = dynamic(), plain()
    ours = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    theirs = group_parameters(backbone, backbone.group_matcher(coarse=coarse), reverse=True)
    assert {f"backbone.{name}": layer for name, layer in theirs.items()}.items() <= ours.items()
    for site in model.sites:
        block = theirs[f"{site.name.rpartition('.')[0]}.norm1.weight"]
        assert {layer for name, layer in ours.items() if f".{site.name.split('.')[1]}.sites." in name} == {block}


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "beit_base_patch16_224"])
def test_patterns_of_other_classes(name: str) -> None:
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=CLASSES)
        theirs = group_parameters(backbone, backbone.group_matcher(), reverse=True)
        model = dyt.build(spec(backbone={"name": name, "weights": "none"}), backbone=backbone)
    ours = group_parameters(model, model.group_matcher(), reverse=True)
    assert {f"backbone.{parameter}": layer for parameter, layer in theirs.items()}.items() <= ours.items()


def test_layer_decay_gives_a_block_and_its_adapter_one_rate() -> None:
    model = dynamic()
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    scales = [{scale[id(p)] for p in site.parameters()} for site in model.sites]
    assert scales == [{0.5**2}, {0.5}]
    assert {scale[id(p)] for p in model.get_classifier().parameters()} == {1.0}


def test_no_weight_decay_reaches_the_optimiser() -> None:
    model = dynamic().requires_grad_(True)
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.1)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    assert id(model.pos_embed) not in decayed
    assert id(model.cls_token) not in decayed
    assert id(model.backbone.blocks[0].mlp.fc1.weight) in decayed


@pytest.mark.parametrize("prune", [False, True])
def test_feature_getter(prune: bool) -> None:
    model, backbone = dynamic(), plain()
    ours, theirs = (FeatureGetterNet(m, out_indices=[0], prune=prune) for m in (model, backbone))
    with torch.no_grad(), dyt.execution(ours, "complete"):
        torch.testing.assert_close(ours(IMAGES), theirs(IMAGES), atol=1e-5, rtol=1e-5)
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    assert len(model.sites) == (1 if prune else 2)


def test_a_pruned_model_is_not_saved(tmp_path: Path) -> None:
    model = dynamic()
    assert model.prune_intermediate_layers([0]) == [0]
    assert model.num_classes == model.backbone.num_classes == 0
    with pytest.raises(dyt.CheckpointError, match="layers were taken out by prune_intermediate_layers"):
        dyt.save(copy.deepcopy(model), tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reducer": {"type": "tome"}}, "reducer 'tome'"),
        ({"tuner": {"type": "vpt", "deep": False}}, "shallow prompts"),
        ({"head": {"type": "pixel", "num_classes": 3}}, "use prune=False"),
    ],
)
def test_pruning_is_refused_where_layers_are_needed(changes: dict[str, Any], said: str) -> None:
    model = tiny(**changes)
    with pytest.raises(dyt.UnsupportedError, match=said):
        FeatureGetterNet(model)
    assert len(model.sites) == 2


def test_features_by_hooks_and_by_graph() -> None:
    """The graph is that of the backbone: torch.fx traces no arguments that are handed on unnamed."""
    model, twin = dynamic(), dynamic()
    with torch.no_grad(), dyt.execution(model, "complete"), dyt.execution(twin, "complete"):
        hooked = FeatureHookNet(model, out_indices=(0, 1))(IMAGES)
        graphed = FeatureGraphNet(twin.backbone, out_indices=(0, 1))(IMAGES)
        theirs = FeatureHookNet(plain(), out_indices=(0, 1))(IMAGES)
    torch.testing.assert_close(hooked, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(list(graphed), list(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reshape", [False, True])
def test_intermediate_layers(reshape: bool) -> None:
    model, backbone = dynamic(), plain()
    with torch.no_grad(), dyt.execution(model, "complete"):
        ours = model.get_intermediate_layers(IMAGES, n=2, reshape=reshape, norm=True)
    theirs = backbone.get_intermediate_layers(IMAGES, n=2, reshape=reshape, norm=True)
    torch.testing.assert_close(list(ours), list(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("copied", [False, True])
def test_checkpointing_by_the_backbones_own_method_is_ours(name: str, copied: bool) -> None:
    args = {"img_size": 32, "window_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]}
    args = args if name.startswith("swin") else TINY
    model = shaken(dyt.build(spec(backbone={"name": name, "weights": "none", "args": args})))
    model = copy.deepcopy(model) if copied else model
    grads = []
    for enable in (False, True):
        model.backbone.set_grad_checkpointing(enable)
        assert model.grad_checkpointing is enable
        others = set(model.backbone.modules()) - set(model.dynamic_blocks)
        assert not any(getattr(module, "grad_checkpointing", False) for module in others)
        torch.manual_seed(0)
        model.zero_grad()
        dyt.TuningStep(model.train())(IMAGES, LABELS)[0].backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(grads[0], grads[1])


SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "image": (tiny_backbone(), {"img_size": (48, 40)}),
    "number": (tiny_backbone(), {"img_size": 48}),
    "patch": (tiny_backbone(), {"patch_size": 4}),
    "swin": (
        {
            "name": "swin_tiny_patch4_window7_224",
            "weights": "none",
            "args": {"img_size": 32, "window_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2]},
        },
        {"img_size": (64, 48), "window_size": 2},
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_another_input_size_is_in_the_spec_and_survives_a_file(name: str, tmp_path: Path) -> None:
    backbone, size = SIZES[name]
    model = shaken(dyt.build(spec(backbone=backbone, trainable="full")))
    model.set_input_size(**size)
    assert dyt.DyTSpec.model_validate_json(model.spec.model_dump_json()) == model.spec
    height, width = torch.Size(model.patch_embed.img_size)
    images = torch.randn(2, 3, height, width)
    dyt.save(model, tmp_path / "x.safetensors")
    again = dyt.load(tmp_path / "x.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again(images), model(images))


def test_another_input_size_of_a_given_backbone(tmp_path: Path) -> None:
    model = shaken(dyt.build(spec(backbone=tiny_backbone()), backbone=plain()))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    model.set_input_size(48)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    dyt.save(model, tmp_path / "x.safetensors")
    sized = plain()
    sized.set_input_size((48, 48))
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(dyt.load(tmp_path / "x.safetensors", backbone=sized)(images), model(images))


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(dyt.UnsupportedError, match="refused"):
        tiny().set_input_size(window_size=3)
    hiera = {"name": "hiera_tiny_224", "weights": "none", "args": {"embed_dim": 32, "stages": [1, 1, 1, 1]}}
    model = dyt.build(spec(backbone=hiera))
    with pytest.raises(dyt.UnsupportedError, match="set img_size in backbone"):
        model.set_input_size(256)


def test_utilities(tmp_path: Path) -> None:
    model = shaken(dynamic())
    assert unwrap_model(model) is model
    assert get_state_dict(model).keys() == model.state_dict().keys()
    ema = ModelEmaV3(model, decay=0.5)
    ema.update(model)
    fused = reparameterize_model(model)
    with torch.no_grad():
        torch.testing.assert_close(ema.module(IMAGES), model(IMAGES))
        torch.testing.assert_close(fused(IMAGES), model(IMAGES))
    freeze(model, "backbone.head")
    assert not any(p.requires_grad for p in model.get_classifier().parameters())


def test_timms_checkpoints_of_a_dynamic_model(tmp_path: Path) -> None:
    model = shaken(dynamic())
    saver = CheckpointSaver(model, create_optimizer_v2(model, "sgd", lr=0.1), checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=1.0)
    twin = dynamic()
    load_checkpoint(twin, str(tmp_path / "last.pth.tar"))
    with torch.no_grad():
        torch.testing.assert_close(twin(IMAGES), model(IMAGES))


def test_groups_of_a_model_of_transformers() -> None:
    pytest.importorskip("transformers", reason="the extra dyt[hf]")
    from families.zoo_hf import HUGGINGFACE

    model = dyt.build(spec(backbone={"weights": "none"}), backbone=HUGGINGFACE["vit"].backbone())
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    layers = [{layer for name, layer in groups.items() if f".layers.{i}." in name} for i in range(2)]
    assert layers == [{1}, {2}]
    assert {layer for name, layer in groups.items() if ".embeddings." in name} == {0}
