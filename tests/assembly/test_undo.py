"""The plain model again: `dyt.plain` for a forward, `dyt.unwrap` for good; and what a given backbone is called."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import dyt
from dyt.assembly.backbone import create
from dyt.config.spec import BackboneSpec
from families.zoo import ZOO
from laws.models import TINY, Case, shaken, spec
from laws.strategies import names

CASE = Case(TINY, (32, 32), 2, 0)
ARGS: dict[str, Any] = {"num_classes": 5, **TINY}


def built(**changes: Any) -> dyt.DynamicModel:
    return shaken(dyt.build(spec(**changes), backbone=CASE.backbone()))


def with_head_of(plain: nn.Module, model: dyt.DynamicModel) -> Any:
    """The plain backbone with the model's classifier."""
    plain.load_state_dict(plain.state_dict() | {f"head.{k}": v for k, v in model.backbone.head.state_dict().items()})
    return plain.eval()


@pytest.mark.parametrize("changes", [{}, {"reducer": "tome"}, {"variant": "layer"}, {"adapter": {"type": "moe"}}])
def test_plain_is_what_the_backbone_computed_before(changes: dict[str, Any]) -> None:
    model, x = built(**changes), CASE.images()
    wanted = with_head_of(CASE.backbone(), model)(x)
    with torch.no_grad():
        routed = model(x)
        with dyt.execution(model, "complete"):
            complete = model(x)
        for mode in (True, False):
            model.train(mode)
            with dyt.plain(model):
                torch.testing.assert_close(model(x), wanted)
        assert torch.equal(model(x), routed)
    assert not torch.allclose(complete, wanted, atol=1e-3)  # the complete model has its adapters


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tuner": "bitfit"}, "tuner 'bitfit' trains the backbone"),
        ({"trainable": "full"}, "trainable: full trains the backbone"),
        ({"modules_to_save": ["norm"]}, "modules_to_save trains the backbone"),
    ],
)
def test_plain_is_refused_where_the_backbone_was_tuned(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(dyt.UnsupportedError, match=words), dyt.plain(built(**changes)):
        pass


def test_rewritten_models_are_neither_plain_nor_taken_apart() -> None:
    model = built()
    for rewritten in (dyt.optimize(model), dyt.quantize(model)):
        with pytest.raises(dyt.UnsupportedError, match="the model that it was made from"), dyt.plain(rewritten):
            pass
        with pytest.raises(dyt.UnsupportedError, match="unwrap the one that it was made from"):
            dyt.unwrap(rewritten)


@pytest.mark.parametrize("variant", names("variants"))
def test_unwrap_gives_the_backbone_back(variant: str) -> None:
    plain, x = CASE.backbone(), CASE.images()
    before = copy.deepcopy(plain)
    before.blocks[0].requires_grad_(False)  # as it was given
    plain.blocks[0].requires_grad_(False)
    model = shaken(dyt.build(spec(variant=variant), backbone=plain))
    backbone = dyt.unwrap(model)
    assert backbone is plain
    assert str(backbone) == str(before)
    wanted = with_head_of(before, dyt.build(spec(), backbone=copy.deepcopy(plain)))
    state = backbone.state_dict()
    assert list(state) == list(wanted.state_dict())
    assert all(torch.equal(v, state[k]) for k, v in wanted.state_dict().items())
    assert [p.requires_grad for p in backbone.parameters()] == [p.requires_grad for p in wanted.parameters()]
    with torch.no_grad():
        assert torch.equal(backbone(x), wanted(x))
    again = dyt.build(spec(), backbone=backbone)  # it is plain again
    assert len(again.sites) == 2
    with pytest.raises(dyt.UnsupportedError, match=r"taken apart by dyt\.unwrap"):
        model(x)
    with pytest.raises(dyt.UnsupportedError, match="taken apart already"):
        dyt.unwrap(model)


@pytest.mark.parametrize("name", ["cait", "beit", "eva02", "parallel", "relpos", "respost"])
def test_unwrap_of_other_families(name: str) -> None:
    plain = ZOO[name].make().eval()
    before, x = (
        copy.deepcopy(plain),
        torch.randn(2, 3, *ZOO[name].image) if hasattr(ZOO[name], "image") else CASE.images(),
    )
    model = dyt.build(spec(variant=ZOO[name].variants[-1]), backbone=plain)
    backbone = dyt.unwrap(copy.deepcopy(model).double().float())
    assert list(backbone.state_dict()) == list(before.state_dict())
    with torch.no_grad():
        assert torch.equal(backbone(x), before(x))


def test_unwrap_takes_hooks_windows_and_checkpointing_back() -> None:
    made = {"name": "vit_tiny_patch16_224", "weights": "none", "args": TINY, "window_size": 2}
    model = dyt.build(spec(backbone=made, reducer=None))
    backbone = dyt.unwrap(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
    plain = CASE.backbone()
    plain.set_grad_checkpointing(True)
    model = dyt.build(spec(reducer="tome"), backbone=plain)
    assert not plain.grad_checkpointing
    backbone = dyt.unwrap(model)
    assert backbone.grad_checkpointing
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())


def test_unwrap_merges_lora_and_refuses_prompts() -> None:
    pytest.importorskip("peft")
    x = CASE.images()
    model = built(tuner={"type": "lora", "rank": 2}, dispatcher="always", adapter="none")
    with torch.no_grad():
        wanted = model(x)
        backbone = dyt.unwrap(model)
        torch.testing.assert_close(backbone(x), wanted)
    assert list(backbone.state_dict()) == list(CASE.backbone().state_dict())
    assert all(p.requires_grad for p in backbone.parameters())
    model = built(tuner="vpt")
    with pytest.raises(dyt.UnsupportedError, match="its prompts are tokens, which cannot be merged"):
        dyt.unwrap(model)
    model(x)


# A given backbone ----------------------------------------------------------------------------------------------------


def test_a_model_says_what_it_was_built_on(tmp_path: Path) -> None:
    made = timm.create_model("vit_tiny_patch16_224", **ARGS)
    named = dyt.build({"head": {"num_classes": 5}}, backbone=made).spec.backbone
    assert (named.name, named.weights) == (f"vit_tiny_patch16_224.{made.pretrained_cfg['tag']}", "given")
    model = dyt.build({"head": {"num_classes": 5}}, backbone=CASE.backbone())
    assert (model.spec.backbone.name, model.spec.backbone.weights) == ("VisionTransformer", "given")
    dyt.save(model, tmp_path / "a.safetensors")
    with pytest.raises(dyt.CheckpointError, match=r"made on a VisionTransformer that was given, .*backbone=\)") as told:
        dyt.load(tmp_path / "a.safetensors")
    assert "\n" not in str(told.value)
    assert dyt.load(tmp_path / "a.safetensors", backbone=CASE.backbone()).spec == model.spec
    with pytest.raises(dyt.SpecError, match="'given' is of a model that was built on a backbone"):
        dyt.build(model.spec)
    dyt.build(model.spec, backbone=CASE.backbone())
    dyt.save(model, tmp_path / "b.safetensors", whole=True)
    with pytest.raises(dyt.CheckpointError, match="a VisionTransformer, which cannot be made by that name"):
        dyt.load(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("said", "weights"),
    [
        ({"name": "vit_tiny_patch16_224", "weights": "pretrained"}, "pretrained"),
        ({"name": "vit_tiny_patch16_224"}, "given"),
        ({"weights": "none"}, "none"),
        ({"weights": "pretrained"}, "given"),  # of the default name, which it is not
        ({"name": "vit_small_patch16_224", "weights": "mine.pth"}, "given"),
    ],
)
def test_weights_that_a_spec_claims_stay_where_they_may_be_true(said: dict[str, str], weights: str) -> None:
    backbone = timm.create_model("vit_tiny_patch16_224", **ARGS)
    found = dyt.build(spec(backbone=said), backbone=backbone).spec.backbone
    assert found.weights == weights
    assert found.name.startswith("vit_tiny_patch16_224")


def test_an_already_dynamic_backbone_is_called_that(tmp_path: Path) -> None:
    model = built()
    dyt.save(model, tmp_path / "a.safetensors")
    for backbone in (model, model.backbone):
        with pytest.raises(dyt.CheckpointError, match="is already dynamic; give the plain timm model"):
            dyt.load(tmp_path / "a.safetensors", backbone=backbone)
    again = dyt.load(tmp_path / "a.safetensors", backbone=dyt.unwrap(model))
    assert len(again.sites) == 2


def test_weights_that_have_moved(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    old, new, path = tmp_path / "old.safetensors", tmp_path / "new.safetensors", tmp_path / "a.safetensors"
    plain = CASE.backbone()
    save_file(plain.state_dict(), old)
    made = {"name": "vit_tiny_patch16_224", "weights": str(old), "args": TINY}
    model = shaken(dyt.build(spec(backbone=made)))
    dyt.save(model, path)
    old.rename(new)
    with pytest.raises(dyt.WeightsError, match=r"there is no file '.*old.safetensors'; give load\(..., weights=\)"):
        dyt.load(path, trust_paths=True)
    with pytest.raises(
        dyt.CheckpointError, match=r"names '.*old.safetensors' .* not opened .* give load\(..., weights=\)"
    ):
        dyt.load(path)
    again = dyt.load(path, weights=new)
    assert again.spec.backbone.weights == str(new)
    with torch.no_grad():
        assert torch.equal(again(CASE.images()), model(CASE.images()))
    save_file(Case(TINY, (32, 32), 2, 7).backbone().state_dict(), new)
    with pytest.raises(dyt.CheckpointError, match="another backbone"):
        dyt.load(path, weights=new)
    with pytest.raises(dyt.CheckpointError, match="give backbone= or weights=, not both"):
        dyt.load(path, backbone=plain, weights=new)


def test_the_weights_of_a_given_backbone_may_be_told_to_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    backbone = create(BackboneSpec(name="vit_tiny_patch16_224", weights="none", args=TINY), 5)[0].eval()
    save_file(backbone.state_dict(), tmp_path / "plain.safetensors")
    model = shaken(dyt.build(spec(backbone={"args": TINY}), backbone=backbone))
    dyt.save(model, tmp_path / "a.safetensors")
    again = dyt.load(tmp_path / "a.safetensors", weights=tmp_path / "plain.safetensors")
    with torch.no_grad():
        assert torch.equal(again(CASE.images()), model(CASE.images()))
