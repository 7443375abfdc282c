"""Law 11: a refusal leaves a given backbone as it was, and so does a failure; every component, every family."""

import copy
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import dyt
from dyt.config.spec import parse
from dyt.heads import TaskHeadSpec
from dyt.registry import KINDS
from dyt.testing.refusals import lived_in, refusal_leaves_the_backbone, refused_on
from laws.backbones import BACKBONES
from laws.models import CLASSES, Case, spec
from laws.strategies import cases, chosen

SLOTS = {
    **{"variants": "variant", "dispatchers": "dispatcher", "adapters": "adapter"},
    **{"tuners": "tuner", "reducers": "reducer", "heads": "head"},
}
SMALL: dict[str, dict[str, Any]] = {
    "upernet": {"channels": 4},
    "faster_rcnn": {"channels": 4, "hidden": 8},
    "mask_rcnn": {"channels": 4, "hidden": 8},
}
FAMILIES = {row.family: name for name, row in reversed(BACKBONES.items())}
"""A backbone of each family."""
PIXEL, WINDOWS = {"type": "pixel", "num_classes": CLASSES}, {"weights": "none", "window_size": 2}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("variant 'layer' is not available", {"variant": "layer"}),
    ("dispatcher 'attention' is not available", {"dispatcher": "attention"}),
    ("variant.layers: no block 99", {"variant": {"type": "mlp", "layers": [99]}}),
    ("adapter.input: normalised is not", {"adapter": {"type": "bottleneck", "input": "normalised"}}),
    ("objective.layer_rates: 7 rates", {"objective": {"layer_rates": [0.5] * 7}}),
    ("capacity.share: 31 shares", {"capacity": {"share": [0.5] * 31}}),
    ("backbone.window_size is not available for", {"backbone": WINDOWS}),
    ("backbone.window_size is not available here", {"backbone": WINDOWS, "variant": "layer"}),
    ("tuner 'vpt' is not available", {"tuner": "vpt", "dispatcher": "attention"}),
    ("tuner 'vpt' is not available", {"tuner": "vpt", "reducer": "tome"}),
    ("tuner 'lora' is not available", {"tuner": {"type": "lora", "targets": ["nowhere"]}}),
    ("reducer 'tome' is not available", {"reducer": "tome", "variant": "layer"}),
    ("reducer 'tome' is not available", {"reducer": "tome", "variant": {"type": "mlp", "layers": [0]}}),
    ("reducer 'evit' is not available", {"reducer": "evit", "dispatcher": "attention"}),
    ("reducer.layers: no block 77", {"reducer": {"type": "evit", "layers": [77]}}),
    ("head 'pixel' is not available", {"head": PIXEL, "reducer": "tome"}),
    ("head 'pixel' is not available", {"head": PIXEL, "tuner": {"type": "vpt", "deep": False}}),
    ("head 'query' is not available", {"head": {"type": "query", "num_classes": 0}}),
    ("modules_to_save: the backbone has no module", {"modules_to_save": ["nowhere"]}),
]
"""How a refusal begins, by the rules of `assembly/compatibility.py` and `assembly/allocation.py`, and a spec for it."""


def alone(kind: str, name: str) -> dict[str, Any]:
    """A spec in which this component stands beside the defaults."""
    if kind != "heads":
        return {SLOTS[kind]: name}
    distill = 1.0 if KINDS["heads"].get(name).divergence_refusal is None else 0.0
    classes = 0 if KINDS["heads"].get(name).taught else CLASSES
    head = {"type": name, "num_classes": classes, **SMALL.get(name, {})}
    return {"head": head, "objective": {"distill": distill}}


@cache
def made(row: str, classes: int) -> nn.Module:
    torch.manual_seed(0)
    backbone = BACKBONES[row].make()
    if classes != CLASSES:
        backbone.reset_classifier(classes)  # type: ignore[operator]
    return backbone.eval()


def refusals(changes: dict[str, Any], rows: Iterable[str] = FAMILIES.values()) -> list[str]:
    """What the spec is refused with on backbones, of every family by default, each of which is left as it was."""
    wanted = parse(dyt.DyTSpec, spec(**changes))
    classes = 0 if isinstance(wanted.head, TaskHeadSpec) else CLASSES
    found = [refused_on(lived_in(copy.deepcopy(made(row, classes))), wanted) for row in rows]
    return [str(refused) for refused in found if refused is not None]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in SLOTS for name in KINDS[kind].names()])
def test_every_component(kind: str, name: str) -> None:
    """Where it is not refused, planning it leaves the backbone too, and so does a failure of the last step."""
    assert not any("\n" in words for words in refusals(alone(kind, name)))


@pytest.mark.parametrize(("begins", "changes"), REFUSED)
def test_every_rule(begins: str, changes: dict[str, Any]) -> None:
    assert any(
        words.startswith(begins)
        for words in refusals(changes, ("vit", "respost", "parallel", "cait", "relpos", "swin swin"))
    )


@given(case=cases(dtypes=("float32",)), data=st.data())
def test_whatever_is_chosen(case: Case, data: st.DataObject) -> None:
    refusal_leaves_the_backbone(case, data.draw(chosen()))
