"""What fails while a model is built, whoever's it is, is taken back: nothing is left on the given backbone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import dyt
from dyt.adapters import NoAdapter
from dyt.assembly import build as building
from dyt.assembly.plan import plan
from dyt.assembly.rollback import rollback
from dyt.config.spec import parse
from dyt.dispatchers import Always
from dyt.families import ViT
from dyt.heads import Classifier, ClassifierSpec
from dyt.reducers import ToMe
from dyt.registry import KINDS
from dyt.testing.refusals import as_it_was, lived_in
from dyt.tuners import VPT, LoRA
from dyt.variants import MLPVariant
from laws.backbones import BACKBONES
from laws.models import TINY, Case, shaken, spec

CASE = Case(TINY, (32, 32), 2, 0)


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    with ExitStack() as stack:
        for registry in KINDS.values():
            stack.enter_context(registry.temporary())
        yield


class BrokenError(Exception):
    """Of a component that is not ours."""


def after(method: str, base: type) -> type:
    """A subclass that raises at the end of a method, when all that it does is done."""

    original = getattr(base, method)

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        original(self, *args, **kwargs)
        raise BrokenError(method)

    return type("Plugged", (base,), {method: broken})


@pytest.mark.parametrize(
    ("kind", "slot", "method", "base"),
    [
        ("variants", "variant", "__init__", MLPVariant),
        ("dispatchers", "dispatcher", "__init__", Always),
        ("adapters", "adapter", "__init__", NoAdapter),
        ("reducers", "reducer", "__init__", ToMe),
        ("tuners", "tuner", "__init__", VPT),
        ("tuners", "tuner", "apply", VPT),
        ("tuners", "tuner", "apply", LoRA),
        ("tuners", "tuner", "trains", LoRA),
        ("heads", "head", "__init__", Classifier),
        ("heads", "head", "attach", Classifier),
        ("heads", "head", "train", Classifier),
    ],
)
def test_a_plug_in_that_raises(kind: str, slot: str, method: str, base: Any) -> None:
    plugged: Any = after(method, base)
    fields = base.Spec().model_dump() | ({"num_classes": CASE.classes} if kind == "heads" else {})
    plugged.Spec = type("PluggedSpec", (base.Spec,), {"__annotations__": {"type": str}, "type": "plugged"})
    KINDS[kind]("plugged")(plugged)
    backbone = lived_in(CASE.backbone())
    with as_it_was(backbone), pytest.raises(BrokenError, match=method):
        dyt.build(spec(**{slot: {**fields, "type": "plugged"}}), backbone=backbone)
    dyt.build(spec(), backbone=backbone)  # it can still be built on


def test_a_family_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ViT, "listen", after("listen", ViT).listen)  # type: ignore[attr-defined]
    backbone = lived_in(CASE.backbone())
    with as_it_was(backbone), pytest.raises(BrokenError, match="listen"):
        dyt.build(spec(reducer="tome"), backbone=backbone)


@pytest.mark.parametrize("step", ["start_head", "put_windows", "_freeze", "DynamicModel"])
def test_a_step_that_fails(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the start of a new classifier, the one step that writes over values."""
    original = getattr(building, step)

    def broken(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        raise BrokenError(step)

    backbone = lived_in(CASE.backbone())
    windows = parse(dyt.DyTSpec, spec(backbone={"weights": "none", "window_size": 2}))
    monkeypatch.setattr(building, step, broken)
    with as_it_was(backbone), pytest.raises(BrokenError, match=step):
        building.apply(plan(windows, backbone, new_head=True))


def test_a_head_that_changes_the_backbone_when_it_is_made() -> None:
    """As heads did before there was `attach`: the plan has no trace of it, the model has it."""

    class StopsSpec(ClassifierSpec):
        type: str = "stops"  # type: ignore[assignment]

    class Stops(Classifier):
        Spec = StopsSpec

        def __init__(self, spec: Any, backbone: Any) -> None:
            super().__init__(spec, backbone)
            backbone.norm.requires_grad_(False)
            backbone.seen = [type(block) for block in backbone.blocks]

    KINDS["heads"]("stops")(Stops)
    backbone: Any = CASE.backbone()
    wanted = parse(dyt.DyTSpec, spec(head={"type": "stops", "num_classes": CASE.classes}, trainable="full"))
    with as_it_was(backbone):
        planned = plan(wanted, backbone)
    assert planned.late_head
    model = building.apply(planned)
    assert backbone.seen == [MLPVariant] * 2
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        "backbone.norm.weight",
        "backbone.norm.bias",
    }
    assert not plan(parse(dyt.DyTSpec, spec()), CASE.backbone()).late_head


def test_a_backbone_of_transformers_is_left_as_it_was() -> None:
    """Its shell is new, and takes its mode without touching the modes of its parts."""
    inside = lived_in(BACKBONES["hf_vit vit"].make().model)  # type: ignore[arg-type]
    with as_it_was(inside), pytest.raises(dyt.UnsupportedError):
        dyt.build(spec(reducer="tome", variant="layer"), backbone=inside)
    with as_it_was(inside), pytest.raises(dyt.SpecError):
        dyt.build(spec(head={"num_classes": CASE.classes + 1}), backbone=inside)


def test_backbones_that_cannot_be_built_on() -> None:
    plain = lived_in(CASE.backbone())
    with as_it_was(plain), pytest.raises(dyt.SpecError, match=r"head\.num_classes is 7"):
        dyt.build(spec(head={"num_classes": 7}), backbone=plain)
    plain.get_classifier = None  # type: ignore[assignment]
    with as_it_was(plain), pytest.raises(dyt.UnsupportedError, match="it has no get_classifier"):
        dyt.build(spec(), backbone=plain)
    model = dyt.build(spec(tuner="vpt"), backbone=CASE.backbone())
    for dynamic in (model, model.backbone):
        with as_it_was(model), pytest.raises(dyt.UnsupportedError, match="already dynamic"):
            dyt.build(spec(), backbone=dynamic)
    with as_it_was(model), pytest.raises(dyt.UnsupportedError, match="its prompts are tokens"):
        dyt.unwrap(model)
    unknown = lived_in(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    with as_it_was(unknown), pytest.raises(dyt.UnsupportedError, match="no family knows"):
        dyt.build(spec(), backbone=unknown)


def test_a_file_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the classifier has been replaced by then, and a step fails that no refusal foresees."""
    path = tmp_path / "a.safetensors"
    dyt.save(shaken(dyt.build(spec(), backbone=CASE.backbone())), path)
    other = lived_in(Case(TINY, (32, 32), 2, 1).backbone())
    with as_it_was(other), pytest.raises(dyt.CheckpointError, match="another backbone"):
        dyt.load(path, backbone=other)
    resized: Any = CASE.backbone()
    resized.reset_classifier(9)
    lived_in(resized)
    original = building.Origin.of

    def broken(model: Any, *args: Any) -> Any:
        if model.backbone is resized:
            raise BrokenError
        return original(model, *args)

    monkeypatch.setattr(building.Origin, "of", broken)
    with as_it_was(resized), pytest.raises(BrokenError):
        dyt.load(path, backbone=resized)
    monkeypatch.undo()
    assert dyt.load(path, backbone=resized).num_classes == CASE.classes


# The rollback itself -------------------------------------------------------------------------------------------------


class _Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def parametrized(net: Any) -> None:
    parametrize.register_parametrization(net[0], "weight", _Scaled())


CHANGES: dict[str, Callable[[Any], Any]] = {
    "in place": lambda net: nn.init.zeros_(net[0].weight),
    "past autograd": lambda net: net[0].weight.data.mul_(2),
    "a view of it": lambda net: net[0].weight.data[0].fill_(3.0),
    "by out=": lambda net: torch.add(torch.ones(2), 1, out=net[0].bias.data),
    "several at once": lambda net: torch._foreach_mul_([p.data for p in net.parameters()], 2.0),
    "dtype": lambda net: net.double(),
    "data": lambda net: setattr(net[0].weight, "data", torch.zeros(5, 2)),
    "buffers": lambda net: net.train()(torch.randn(4, 2)),
    "gradient": lambda net: net(torch.randn(4, 2)).sum().backward(),
    "gradient in place": lambda net: net[0].weight.grad.zero_(),
    "requires_grad": lambda net: net.requires_grad_(False),
    "mode": lambda net: net.train(),
    "a module": lambda net: net.append(nn.ReLU()),
    "a module gone": lambda net: net.pop(0),
    "a parameter": lambda net: net[0].register_parameter("bias", None),
    "an attribute": lambda net: setattr(net, "found", 1),
    "an attribute gone": lambda net: delattr(net, "note"),
    "inside an attribute": lambda net: net.note["of"].append("another"),
    "a hook": lambda net: net[0].register_forward_hook(print),
    "a hook gone": lambda net: net[0]._forward_hooks.clear(),
    "a hook of a tensor": lambda net: net[0].weight.register_hook(print),
    "a first hook of a tensor": lambda net: net[1].weight.register_post_accumulate_grad_hook(print),
    "an attribute of a tensor": lambda net: setattr(net[0].weight, "mine", 1),
    "a parametrization": parametrized,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen_and_taken_back(change: str) -> None:
    net: Any = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    net.note, net[0].weight.grad = {"of": []}, torch.ones(2, 2)
    net[0].weight.register_hook(lambda grad: grad)
    handle = net[0].register_forward_hook(lambda module, args, out: None)

    def fails() -> None:
        with rollback(net) as before:
            assert before.holds()
            CHANGES[change](net)
            assert not before.holds()
            raise BrokenError

    with as_it_was(net), pytest.raises(BrokenError):
        fails()
    handle.remove()
    assert not net[0]._forward_hooks  # the handle still works
    net[0].register_forward_hook(lambda module, args, out: None)
    with pytest.raises(AssertionError, match="not left as it was"), as_it_was(net):
        CHANGES[change](net)


def test_nothing_is_copied_that_is_not_written() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with rollback(net) as before:
        net(torch.ones(1, 2)).sum().backward()
        assert not before.writes.copies
        nn.init.zeros_(net[1].bias)
        nn.init.ones_(net[1].bias)
    ((tensor, _),) = before.writes.copies
    assert tensor.data_ptr() == net[1].bias.data_ptr()
