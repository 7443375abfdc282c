"""A compiled bank: one graph for all mixes, and for what is switched, replaced, added and removed within its room."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.testing import assert_close

import dyt
from bank.test_bank import ARGS, FAMILIES, X, tuned
from compilation import WHOLE

MIXES = ("abcabc", "aaabbb", "cccccc")
torch.manual_seed(0)
SMALL = VisionTransformer(**ARGS | {"depth": 1, "global_pool": "avg"}).eval()
"""One block: what is captured once is captured in the same way for each. Every token counts, and so does its route."""


def small_bank(models: dict[str, dyt.DynamicModel]) -> dyt.Bank:
    """A bank of one block."""
    bank = dyt.Bank(SMALL)
    for name, model in models.items():
        bank.add(name, model)
    return bank


class Captured:
    """A compiled bank, and the graphs that were captured of it."""

    def __init__(self, bank: dyt.Bank) -> None:
        torch.compiler.reset()
        self.graphs = 0
        self.run: Callable[..., Any] = torch.compile(bank, fullgraph=WHOLE, backend=self.backend)

    def backend(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def assert_each_alone(logits: Tensor, names: Sequence[str], models: dict[str, dyt.DynamicModel]) -> None:
    """Of each image its own task's logits, and -inf past them."""
    with torch.no_grad():
        for given, name, found in zip(X, names, logits, strict=True):
            own = models[name](given[None])[0]
            assert_close(found[: len(own)], own, atol=1e-5, rtol=1e-5)
            assert (found[len(own) :] == float("-inf")).all()


def test_one_graph_for_mixes_and_for_what_changes_within_the_room() -> None:
    """Of tasks with stand-ins, whose norm is the block's; below they have none."""
    stand_in = {"type": "low_rank", "dim": 4, "input": "normalised"}
    classes = {"a": 3, "b": 5, "c": 2}
    models = {name: tuned(seed, classes[name], SMALL, stand_in=stand_in) for seed, name in enumerate("abc")}
    bank = small_bank(models)
    compiled = Captured(bank)
    for mix in MIXES:
        assert_each_alone(compiled.run(X, bank.indices(list(mix))), mix, models)
    kept = bank.indices(list("aacacc"))
    models["d"] = tuned(7, 4, SMALL, stand_in=stand_in)
    bank.add("d", models["d"])
    assert_each_alone(compiled.run(X, bank.indices(list("dabcda"))), "dabcda", models)
    models["a"] = tuned(8, 1, SMALL, stand_in=stand_in)
    bank.add("a", models["a"])
    bank.remove("b")
    assert_each_alone(compiled.run(X, kept), "aacacc", models)
    models["e"] = tuned(9, 5, SMALL, stand_in=stand_in)
    bank.add("e", models["e"])  # in the row that b had
    assert_each_alone(compiled.run(X, bank.indices(list("eadcee"))), "eadcee", models)
    assert compiled.graphs == 1 or not WHOLE
    assert bank.model is not None
    assert bank.model.key.traced is None


def test_switching_takes_the_same_graph() -> None:
    models = {name: tuned(seed, 3, SMALL) for seed, name in enumerate("ab")}
    bank = small_bank(models)
    compiled = Captured(bank)
    with torch.no_grad():
        for name in "aba":
            bank.switch(name)
            assert_close(compiled.run(X), models[name](X), atol=1e-5, rtol=1e-5)
    assert compiled.graphs == 1 or not WHOLE


def test_a_swin_and_threads() -> None:
    """Windows' padding, and two widths of channels; threads run other mixes at the same time."""
    torch.manual_seed(0)
    name = "swin_tiny_patch4_window7_224"
    backbone = timm.create_model(name, num_classes=0, img_size=32, **FAMILIES[name]).eval()
    models = {task: tuned(seed, seed + 1, backbone=backbone) for seed, task in enumerate("abc", 1)}
    bank = dyt.Bank(backbone)
    for task, model in models.items():
        bank.add(task, model)
    for mix in MIXES:
        assert_each_alone(bank(X, bank.indices(list(mix))), mix, models)
    with ThreadPoolExecutor(4) as pool:
        mixes = [list(mix) for mix in MIXES * 4]
        found = pool.map(bank, [X] * len(mixes), map(bank.indices, mixes))
        for mix, logits in zip(mixes, found, strict=True):
            assert_each_alone(logits, mix, models)


def test_alike_and_other_tasks_in_one_batch() -> None:
    """Two stacks, one of gelu at sample level with learned scales, and two tasks that stand by themselves."""
    other: dict[str, Any] = {
        "adapter": {"dim": 4, "activation": "gelu", "scale": 0.5, "scale_learnable": True},
        "dispatcher": {"level": "sample"},
    }
    models = {
        **{name: tuned(seed, seed + 1, SMALL, adapter={"scale": 0.3 * seed}) for seed, name in enumerate("ab", 1)},
        **{name: tuned(seed, 2, SMALL, **other) for seed, name in enumerate("cd", 3)},
        "keys": tuned(5, 4, SMALL, adapter={"type": "moe", "dim": 4}),  # a name that a ModuleDict cannot have
        "features": tuned(6, 0, SMALL, adapter={"type": "none"}),
    }
    bank = small_bank(models)
    assert len({place.part for place in bank.contents.places.values()}) == 4  # type: ignore[union-attr]
    with torch.no_grad():
        for names in (list(models), ["d", "a", "c", "b", "a", "d"], ["keys", "b", "a", "b", "a", "keys"]):
            for given, name, logits in zip(X, names, bank(X, names), strict=True):
                assert_close(logits, models[name](given[None])[0], atol=1e-5, rtol=1e-5)
    with pytest.raises(dyt.UnsupportedError, match="indices are for tasks whose parts are alike"):
        bank.indices("a")
    for name in ("c", "d", "keys", "features"):
        bank.remove(name)
    assert_each_alone(bank(X, bank.indices(list("ababab"))), "ababab", models)


def test_hooked_layers_are_called() -> None:
    """A layer with a hook is no plain product, so its task stands by itself."""
    models, calls = {name: tuned(seed, 2, SMALL) for seed, name in enumerate("ab")}, []
    site = next(iter(models["b"].sites))
    site.adapter.down.register_forward_hook(lambda *given: calls.append(1))
    bank = small_bank(models)
    bank(X, list("aaaaab"))
    assert len(calls) == 1


def test_indices_stay_right_whatever_is_replaced() -> None:
    models = {name: tuned(seed, 2, SMALL) for seed, name in enumerate("abc")}
    bank = small_bank(models)
    index = bank.indices(list("abcabc"))
    for seed, name in enumerate("cab"):
        models[name] = tuned(seed, 3, SMALL, adapter={"dim": 4})
        bank.add(name, models[name])
    assert_each_alone(bank(X, index), "abcabc", models)


def test_room_grows_and_classifiers_are_views() -> None:
    bank, models = dyt.Bank(SMALL, room=1), {name: tuned(seed, 1 + seed, SMALL) for seed, name in enumerate("abcd")}
    for name, model in models.items():
        bank.add(name, model)
    assert_each_alone(bank(X, bank.indices(list("abcdab"))), "abcdab", models)
    assert [linear.out_features for linear in bank.classifiers.values()] == [1, 2, 3, 4]  # type: ignore[union-attr]
    assert_close(bank.classifiers["c"].weight, models["c"].backbone.get_classifier().weight)
    bank.classifiers["c"].bias.data.zero_()  # type: ignore[union-attr]
    before = models["c"].backbone.get_classifier()
    with torch.no_grad():
        assert_close(bank(X, "c"), models["c"](X) - before.bias, atol=1e-5, rtol=1e-5)


def test_tasks_added_in_inference_mode_can_be_replaced_outside() -> None:
    models = {name: tuned(seed, 2, SMALL) for seed, name in enumerate("ab")}
    bank = dyt.Bank(SMALL, room=1)
    bank.add("a", models["a"])
    with torch.inference_mode():
        bank.add("b", models["b"])  # the room grows
    models["a"] = tuned(5, 4, SMALL)
    bank.add("a", models["a"])
    bank.remove("b")
    assert_each_alone(bank(X, bank.indices(list("aaaaaa"))), "aaaaaa", models)


def test_indices_that_are_none() -> None:
    bank = small_bank({name: tuned(seed, 2, SMALL) for seed, name in enumerate("ab")})
    stale = bank.indices("b")
    bank.remove("b")
    with pytest.raises(dyt.DyTError, match=r"no task has index 1; bank\.indices\(names\)"):
        bank(X, stale)
    with pytest.raises(dyt.DyTError, match=r"of shape \(\) or \(6,\); given torch\.int64 of shape \(2,\)"):
        bank(X, bank.indices(["a", "a"]))
    with pytest.raises(dyt.DyTError, match=r"given torch\.float32"):
        bank(X, torch.zeros(6))
    with pytest.raises(dyt.DyTError, match="no task 'b'"):
        bank.indices(["a", "b"])
    with pytest.raises(dyt.DyTError, match="room is a number of tasks"):
        dyt.Bank(SMALL, room=0)
    with pytest.raises(dyt.DyTError, match="the bank has no tasks"):
        dyt.Bank(SMALL)(X, torch.zeros((), dtype=torch.int64))
    # a row of no task gives NaN where it cannot be checked
    assert bank.contents is not None
    bank.contents.places["b"] = replace(bank.contents.places["a"], row=1)
    assert bank(X, "b").isnan().all()
