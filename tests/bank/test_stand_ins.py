"""Tasks with stand-ins in a bank: each with its own, beside tasks that have none."""

import copy
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

import dyt
from bank.test_bank import FAMILIES, X, tuned
from bank.test_compiled import SMALL, assert_each_alone, small_bank
from dyt.core import context

LINEAR: dict[str, Any] = {"type": "low_rank", "dim": 4}
NORMALISED = LINEAR | {"input": "normalised"}
KINDS: dict[str, dict[str, Any]] = {
    "none": {},
    "linear": {"stand_in": LINEAR},
    "wider": {"stand_in": LINEAR | {"dim": 6}},
    "normalised": {"stand_in": NORMALISED},
    "sample": {"stand_in": LINEAR, "dispatcher": {"level": "sample"}},
    "bottleneck": {"stand_in": {"type": "bottleneck", "dim": 3}},
    "mixture": {"stand_in": {"type": "moe", "dim": 2, "input": "normalised"}},
    "topk": {"stand_in": NORMALISED, "dispatcher": {"type": "topk", "rate": 0.4}},
    "every": {"dispatcher": {"type": "always"}},
}
"""Of each kind the tasks are alike, and of two kinds they are not."""


@cache
def task(kind: str, seed: int) -> dyt.DynamicModel:
    return tuned(seed, seed, SMALL, **KINDS[kind])


def parts_of(bank: dyt.Bank) -> dict[str, str]:
    assert bank.contents is not None
    return {name: place.part for name, place in bank.contents.places.items()}


@given(data=st.data())
def test_whatever_stands_side_by_side(data: st.DataObject) -> None:
    """Any tasks in any mix: each image's logits, and its routes to the bit."""
    executor = data.draw(st.sampled_from(["sparse", "masked", "capacity"]))
    drawn = data.draw(st.lists(st.tuples(st.sampled_from(list(KINDS)), st.integers(1, 3)), min_size=1, max_size=5))
    models = {f"{kind}{seed}": task(kind, seed) for kind, seed in drawn}
    mix = data.draw(st.lists(st.sampled_from(list(models)), min_size=len(X), max_size=len(X)))
    bank = small_bank(models)
    assert bank.model is not None
    with torch.no_grad(), dyt.execution(bank.model, executor), dyt.record(bank.model) as mixed:
        found = bank(X, mix)
    for i, (name, logits) in enumerate(zip(mix, found, strict=True)):
        with torch.no_grad(), dyt.execution(models[name], executor), dyt.record(models[name]) as alone:
            assert_close(logits, models[name](X[i : i + 1])[0], atol=1e-5, rtol=1e-5)
        for both, own in zip(mixed, alone, strict=True):
            assert torch.equal(both.active[i], own.active[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_one_task_is_equal_to_the_bit(kind: str, dtype: torch.dtype) -> None:
    models = {"first": task("none", 1), "own": copy.deepcopy(task(kind, 2))}
    bank = dyt.Bank(copy.deepcopy(SMALL))
    for name, model in models.items():
        bank.add(name, model)
    bank.to(dtype)
    bank.add("late", models["own"])
    wanted = models["own"].to(dtype)
    with torch.no_grad():
        assert torch.equal(bank(X.to(dtype), "own"), wanted(X.to(dtype)))
        assert torch.equal(bank(X.to(dtype), "late"), wanted(X.to(dtype)))


def test_alike_ones_share_a_stack() -> None:
    models = {f"{kind}{seed}": task(kind, seed) for kind in KINDS for seed in (1, 2)}
    parts = parts_of(small_bank(models))
    stacks = [parts[f"{kind}1"] for kind in ("none", "linear", "wider", "normalised", "sample")]
    assert stacks == [parts[f"{kind}2"] for kind in ("none", "linear", "wider", "normalised", "sample")]
    assert len(set(stacks)) == 5
    assert len(set(parts.values())) == 5 + 2 * 4


class Calls(TorchFunctionMode):
    """Counts what is called of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[torch.overrides.resolve_name(func) or repr(func)] += 1
        return func(*args, **(kwargs or {}))


def test_they_cost_nothing_where_no_task_has_one() -> None:
    """A forward calls the same as that of a bank whose sites have no place for stand-ins, and no tensor is kept."""
    models = {"a": task("none", 1), "b": task("none", 2), "c": task("every", 1)}
    bank, counted = small_bank(models), []
    assert bank.model is not None
    assert not any("stand_in" in name for name in bank.state_dict())
    for _ in range(2):
        with torch.no_grad(), Calls() as calls:
            bank(X, list("abcabc"))
            bank(X, "a")
        counted.append(calls.names)
        for site in bank.model.sites:
            site.stand_in = None
    assert counted[0] == counted[1]
    assert sum(counted[0].values()) > 20


def test_each_task_s_own_on_several_widths_and_in_copies() -> None:
    """A Swin: windows, two widths of channels, and norms that a copy has to have of its own."""
    torch.manual_seed(0)
    name = "swin_tiny_patch4_window7_224"
    backbone = timm.create_model(name, num_classes=0, img_size=32, **FAMILIES[name]).eval()
    fields = {"a": {"stand_in": NORMALISED}, "b": {}, "c": {"stand_in": NORMALISED}, "d": {"stand_in": LINEAR}}
    models = {task: tuned(seed, seed, backbone, **fields[task]) for seed, task in enumerate(fields, 1)}
    bank, names = dyt.Bank(backbone), list("dabcab")
    for task, model in models.items():
        bank.add(task, model)
    copied = copy.deepcopy(bank)
    with torch.no_grad():
        for given_, task, logits in zip(X, names, bank(X, names), strict=True):
            assert_close(logits, models[task](given_[None])[0], atol=1e-5, rtol=1e-5)
        wanted = bank(X, "a")
        for parameter in backbone.parameters():  # the bank's own as well
            parameter.zero_()
        assert torch.equal(copied(X, "a"), wanted)
        assert not torch.equal(bank(X, "a"), wanted)


@pytest.mark.parametrize(("variant", "read"), [("attn_mlp", NORMALISED), ("attn", LINEAR), ("layer", LINEAR)])
def test_other_variants(variant: str, read: dict[str, Any]) -> None:
    fields = [{"stand_in": read}, {}, {"stand_in": LINEAR}]
    models = {
        name: tuned(seed, 2, SMALL, variant={"type": variant}, **own)
        for (seed, name), own in zip(enumerate("abc", 1), fields, strict=True)
    }
    bank, names = small_bank(models), list("cbaabc")
    with torch.no_grad():
        for image, name, logits in zip(X, names, bank(X, names), strict=True):
            assert_close(logits, models[name](image[None])[0], atol=1e-5, rtol=1e-5)


def test_replaced_by_one_without_and_back() -> None:
    """The row stays the task's; indices are for tasks that are alike in their stand-ins too."""
    models = {"a": task("linear", 1), "b": task("linear", 2)}
    bank = dyt.Bank(SMALL, room=1)
    for name, model in models.items():
        bank.add(name, model)
    index = bank.indices(list("ababab"))
    assert_each_alone(bank(X, index), "ababab", models)
    models["b"] = task("none", 3)
    bank.add("b", models["b"])
    with pytest.raises(dyt.UnsupportedError, match="the same low_rank stand-ins or none"):
        bank.indices("a")
    with torch.no_grad():
        for image, name, logits in zip(X, "ababab", bank(X, list("ababab")), strict=True):
            assert_close(logits, models[name](image[None])[0], atol=1e-5, rtol=1e-5)
    bank.add("a", task("wider", 1))
    bank.remove("b")
    models = {"a": task("wider", 1), "b": task("wider", 3)}
    bank.add("b", models["b"])
    assert_each_alone(bank(X, index), "ababab", models)


def test_hooked_layers_are_called() -> None:
    """A stand-in with a hook is no plain product, so its task stands by itself."""
    models, calls = {name: tuned(seed, 2, SMALL, stand_in=LINEAR) for seed, name in enumerate("abc")}, []
    for module in (models["b"].sites[0].stand_in, models["c"].sites[0].stand_in.up):
        module.register_forward_hook(lambda *given: calls.append(1))
    bank = small_bank(models)
    bank(X, list("aaabbc"))
    assert len(calls) == 2


def test_a_file_of_one(tmp_path: Path) -> None:
    dyt.save(task("linear", 2), tmp_path / "one.safetensors")
    bank = small_bank({"a": task("none", 1)})
    bank.add("file", tmp_path / "one.safetensors")
    with torch.no_grad():
        assert torch.equal(bank(X, "file"), task("linear", 2)(X))


def test_of_its_budgets_a_task_has_the_one_that_is_set() -> None:
    """And another when it is added again, under the same index."""
    model = tuned(1, 3, SMALL, stand_in=LINEAR)
    dyt.calibrate_budgets(model, [X], rates=(0.25, 0.5, 1.0))
    model.budget = 0.25
    bank = small_bank({"a": model, "b": task("linear", 2)})
    index = bank.indices("a")
    with torch.no_grad():
        low = model(X)
        assert torch.equal(bank(X, "a"), low)
        model.budget = 1.0
        assert torch.equal(bank(X, "a"), low)
        bank.add("a", model)
        assert torch.equal(bank(X, index), model(X))
    assert not torch.equal(low, bank(X, index))


def test_padding_is_each_image_s_own() -> None:
    """A mixture's weights are those of the image's real tokens."""
    models = {"a": task("mixture", 1), "b": task("linear", 2), "c": task("none", 1)}
    bank, names = small_bank(models), "abcbaa"
    assert bank.model is not None
    assert bank.contents is not None
    x = torch.randn(len(names), 5, 32)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [4], [2], [1], [4]])
    groups = tuple(group for group, _ in bank.contents.groups(names, x.device))
    with torch.no_grad(), context.changed(bank.model.key, groups=groups):
        found = bank.model.sites[0].stand_in(x, padding)
    block = bank.model.dynamic_blocks[0]
    with torch.no_grad():
        for i, name in enumerate(names):
            own = models[name].sites[0].stand_in
            read = block.norm2(x[i : i + 1]) if name == "a" else x[i : i + 1]
            wanted = torch.zeros_like(x[:1]) if own is None else own(read, padding[i : i + 1])
            assert_close(found[i : i + 1], wanted, atol=1e-6, rtol=1e-5)


def test_under_autocast_they_are_rounded_as_in_a_model_of_its_own() -> None:
    """So that what they are added to is as well; tasks in several groups too."""
    models = {"a": task("wider", 1), "b": task("linear", 2), "c": task("none", 1)}
    bank, x = small_bank(models), torch.randn(3, 5, 32)
    assert bank.model is not None
    assert bank.contents is not None
    groups = tuple(group for group, _ in bank.contents.groups("abc", x.device))
    of_bank, own = bank.model.sites[0], models["a"].sites[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), context.changed(bank.model.key, groups=groups):
        for found, wanted in ((of_bank.stand_in, own.stand_in), (of_bank.adapter, own.adapter)):
            assert found(x).dtype == wanted(x).dtype == torch.bfloat16
