"""What holds of every registered tuner, with any variant, dispatcher and adapter: the laws, with a tuner."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import dyt
from dyt.io.checkpoint import fingerprint, plain_state, stored
from dyt.model.block import DynamicBlock
from dyt.model.parts import head_keys, tuned_keys
from dyt.testing.laws import equals_masked, executed
from dyt.train.optim import groups
from dyt.train.spec import TrainSpec
from laws.models import CLASSES, TINY, Case, masks, shaken, spec
from laws.strategies import cases, companions, component, mask_kinds, names

each_tuner = pytest.mark.parametrize("tuner", names("tuners"))
CASE = Case(TINY, (32, 32), 2, 0)
PROMPTED = {"vpt"}
"""Tuners that add tokens: a fresh one does not start at the pretrained function."""
STATIC = {"dispatcher": "always", "adapter": "none"}


def chosen(data: st.DataObject, tuner: str) -> dict[str, Any]:
    """Parts of a spec: this tuner with any variant, dispatcher and adapter."""
    kinds = {"variant": "variants", "dispatcher": "dispatchers", "adapter": "adapters"}
    return {part: data.draw(companions(kind)) for part, kind in kinds.items()} | {
        "tuner": data.draw(component("tuners", tuner))
    }


def labels(case: Case) -> torch.Tensor:
    return torch.arange(case.batch) % CLASSES


@pytest.mark.parametrize("tuner", [name for name in names("tuners") if name not in PROMPTED])
@given(case=cases(), data=st.data())
def test_a_fresh_one_starts_at_the_pretrained_function(tuner: str, case: Case, data: st.DataObject) -> None:
    backbone, x = case.backbone(), case.images()
    with torch.no_grad(), case.precision():
        plain = copy.deepcopy(backbone)(x)
        model = dyt.build(spec(**chosen(data, tuner)), backbone=backbone)
        with dyt.execution(model, "complete"):
            case.close(model(x), plain)


@each_tuner
@settings(max_examples=8)
@given(
    case=cases(pooled=True, stochastic=True).filter(lambda case: case.vit["img_size"] > case.vit["patch_size"]),
    data=st.data(),
    checkpointing=st.booleans(),
)
def test_training_moves_what_it_should_and_nothing_else(
    tuner: str, case: Case, data: st.DataObject, checkpointing: bool
) -> None:
    plain = case.backbone()
    model = dyt.build(spec(**chosen(data, tuner)), backbone=copy.deepcopy(plain))
    model.set_grad_checkpointing(checkpointing)
    before = {k: v.detach().clone() for k, v in model.state_dict().items()}
    tuned = {f"backbone.{key}" for key in tuned_keys(model.backbone, model.tuner)}
    head = {f"backbone.{key}" for key in head_keys(model.backbone)}
    sites = {k for k, _ in model.named_parameters() if ".sites." in k}
    assert tuned
    assert not tuned & (head | sites)
    assert {k for k, p in model.named_parameters() if p.requires_grad} == tuned | head | sites
    step = dyt.TuningStep(model).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        with case.precision():
            loss, _ = step(case.images(), labels(case), 0.0)
        assert bool(torch.isfinite(loss))
        optimizer.zero_grad()
        loss.backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= tuned | head | sites
    assert changed & tuned
    assert set(plain_state(model.backbone, model.tuner)) == set(plain.state_dict())
    assert fingerprint(model.backbone, model.tuner) == fingerprint(plain, model.tuner)


@each_tuner
@given(case=cases(), kinds=mask_kinds, data=st.data())
def test_executors_agree_and_costs_are_those_executed(
    tuner: str, case: Case, kinds: list[str], data: st.DataObject
) -> None:
    model, x = shaken(dyt.build(spec(**chosen(data, tuner)), backbone=case.backbone())), case.images()
    given_masks = masks(model, x, kinds, case.seed)
    with torch.no_grad(), case.precision(), dyt.forced(model, given_masks):
        counted = dyt.count_macs(model, x)
        equals_masked(model, x, given_masks, ["sparse"], case.close)
    for i in range(case.batch):  # one by one: in a batch, rows of attention are padded to the longest
        with case.precision():
            own = executed(model, x[i : i + 1], masks=[mask[i : i + 1] for mask in given_masks])
        assert abs(int(counted[i]) - own) <= 1


@each_tuner
@settings(max_examples=8)
@given(case=cases(), data=st.data(), other_head=st.sampled_from([None, 9]))
def test_a_file_loads_into_an_equal_model(tuner: str, case: Case, data: st.DataObject, other_head: int | None) -> None:
    plain = case.backbone()
    model = shaken(dyt.build(spec(**chosen(data, tuner)), backbone=copy.deepcopy(plain)))
    if other_head is not None:
        plain.reset_classifier(other_head)
    with TemporaryDirectory() as folder:
        dyt.save(model, Path(folder) / "a.safetensors")
        kept = load_file(Path(folder) / "a.safetensors")
        again = dyt.load(Path(folder) / "a.safetensors", backbone=plain)
    assert len([key for key in kept if key.startswith("tuner.")]) == len(tuned_keys(model.backbone, model.tuner))
    assert {key.partition(".")[0] for key in kept} == {"tuner", "sites", "backbone"}
    assert again.spec == model.spec
    ours, theirs = model.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(theirs[k], v) and theirs[k].dtype == v.dtype for k, v in ours.items())
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    with torch.no_grad(), case.precision():
        torch.manual_seed(1)
        logits = model(case.images())
        torch.manual_seed(1)
        assert torch.equal(again(case.images()), logits)


@each_tuner
def test_a_file_that_does_not_fit_changes_nothing(tuner: str, tmp_path: Path) -> None:
    path, other = tmp_path / "a.safetensors", CASE.backbone()
    dyt.save(shaken(dyt.build(spec(tuner=tuner), backbone=CASE.backbone())), path)
    with torch.no_grad():
        other.blocks[1].mlp.fc2.weight[3, 0] += 1e-3
    before, modules = copy.deepcopy(other.state_dict()), list(other.modules())
    with pytest.raises(dyt.CheckpointError, match="another backbone"):
        dyt.load(path, backbone=other)
    assert [id(module) for module in other.modules()] == [id(module) for module in modules]
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    assert not any(isinstance(m, DynamicBlock) or m._forward_hooks or m._forward_pre_hooks for m in other.modules())


@each_tuner
def test_a_copy_is_a_model_of_its_own(tuner: str) -> None:
    model, x = shaken(dyt.build(spec(tuner=tuner), backbone=CASE.backbone())), CASE.images()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(x)
        shaken(model, 1.0)
        assert torch.equal(twin(x), expected)
        assert not torch.equal(model(x), expected)


@each_tuner
def test_what_it_trains_learns_at_the_adapters_rate(tuner: str) -> None:
    model = dyt.build(spec(tuner=tuner, **STATIC), backbone=CASE.backbone())
    found = groups(model, TrainSpec(adapter_lr_scale=3.0))
    scaled = {id(p) for group in found if group["lr_scale"] == 3.0 for p in group["params"]}
    parameters = dict(model.backbone.named_parameters())
    assert scaled == {id(parameters[name]) for name in tuned_keys(model.backbone, model.tuner)}
    assert {id(p) for group in found for p in group["params"]} == {id(p) for p in model.parameters() if p.requires_grad}


@each_tuner
def test_alone_it_stands_without_dispatcher_and_adapter(tuner: str) -> None:
    model = dyt.build(spec(tuner=tuner, **STATIC), backbone=CASE.backbone())
    keys = set(stored(model))
    assert {key for key in keys if key.startswith("sites.")} == {f"sites.blocks.{i}.mlp.threshold" for i in range(2)}
    assert {key for key in keys if key.startswith("backbone.")} == {"backbone.head.weight", "backbone.head.bias"}
    assert len(keys) > 4


@each_tuner
def test_training_everything_and_a_tuner_is_refused(tuner: str) -> None:
    with pytest.raises(dyt.SpecError, match=f"trainable: full .* or tuner '{tuner}'"):
        dyt.build({"tuner": tuner, "trainable": "full"})


def test_none_is_the_default_and_an_unknown_one_is_answered() -> None:
    assert dyt.DyTSpec().tuner is None
    assert dyt.build(spec(), backbone=CASE.backbone()).tuner is None
    with pytest.raises(dyt.SpecError, match=r"^tuner: tuners has no 'lroa'; did you mean 'lora'"):
        dyt.build({"tuner": "lroa"})
