"""Specs: defaults of the paper, frozen, schedules."""

import math
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dyt
from dyt.config.schedules import Descent, Ramp, at, ends
from dyt.config.spec import parse
from laws.strategies import ramps


def test_the_defaults_are_the_paper_s() -> None:
    found = dyt.DyTSpec().model_dump(mode="json")
    windows = {"window_size": None, "global_attn_indexes": None}
    paper: dict[str, Any] = {
        "backbone": {"name": "vit_base_patch16_224.augreg_in21k", "weights": "pretrained", "args": {}, **windows},
        "head": {"type": "classifier", "num_classes": 100, "loss": "cross_entropy"},
        "variant": {"type": "mlp", "layers": None},
        "stand_in": None,
        "tuner": None,
        "reducer": None,
        "capacity": None,
        "dispatcher": {"level": "token", "type": "learned", "temperature": 5.0, "noise": 1.0, "bias": 0.0},
        "adapter": {"type": "bottleneck", "dim": 64, "scale": 0.1, "dropout": 0.1, "activation": "relu"}
        | {"scale_learnable": False, "placement": "parallel", "input": "block"},
        "objective": {
            "rate": 0.5,
            "layer_rates": None,
            "rate_weight": 2.0,
            "complete": 1.0,
            "distill": 1.0,
            "features": 0.0,
            "teacher": "complete",
            "complete_share": 1.0,
            "complete_every": 1,
            "temperature": 1.0,
            "asked": None,
            "control": "loss",
            "router_gradient": "all",
            "router_sample": 0.1,
        },
        "trainable": "adapters",
        "modules_to_save": [],
    }
    remedies = {key: found["objective"].pop(key) for key in found["objective"].keys() - paper["objective"].keys()}
    assert found == paper
    assert not any(remedies.values())  # the remedies for short runs are off


def test_specs_are_frozen() -> None:
    spec = dyt.DyTSpec()
    for owner, field in ((spec, "trainable"), (spec.objective, "rate"), (spec.adapter, "dim"), (spec.backbone, "name")):
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(owner, field, 1)


def test_specs_share_no_mutable_default() -> None:
    dyt.DyTSpec().backbone.args["img_size"] = 32
    assert dyt.DyTSpec().backbone.args == {}


def test_what_was_given_is_copied() -> None:
    args = {"img_size": [32, 32]}
    spec = dyt.BackboneSpec(args=args)
    args["img_size"].append(1)
    assert spec.args == {"img_size": [32, 32]}


@given(plain=ramps(0, 10), progress=st.floats(0, 1))
def test_a_ramp_stays_between_its_ends_and_meets_them(plain: dict[str, object], progress: float) -> None:
    ramp = parse(Ramp, plain)
    low, high = sorted((ramp.start, ramp.end))
    assert low - 1e-9 <= ramp.at(progress) <= high + 1e-9
    assert ramp.at(1.0) == ramp.end
    assert ramp.at(ramp.until) == ramp.end
    if ramp.begin < ramp.until:
        assert ramp.at(0.0) == ramp.start
        assert ramp.at(ramp.begin) == ramp.start
        middle = ramp.at((ramp.begin + ramp.until) / 2)
        mean = math.sqrt(ramp.start * ramp.end) if ramp.shape == "exponential" else (ramp.start + ramp.end) / 2
        assert middle == pytest.approx(mean, rel=1e-3) or ramp.until - ramp.begin < 1e-9
    assert ends(ramp) == (ramp.start, ramp.end)


@given(plain=ramps(0, 10), one=st.floats(0, 1), other=st.floats(0, 1))
def test_a_ramp_is_monotonous(plain: dict[str, object], one: float, other: float) -> None:
    ramp = parse(Ramp, plain)
    first, second = ramp.at(min(one, other)), ramp.at(max(one, other))
    assert second - first >= -1e-9 if ramp.end >= ramp.start else second - first <= 1e-9


def test_shapes_of_a_ramp() -> None:
    quarter = {
        shape: Ramp(start=4, end=1, begin=0.2, until=0.6, shape=shape).at(0.3)
        for shape in ("linear", "cosine", "exponential")
    }
    assert quarter == pytest.approx(
        {"linear": 3.25, "cosine": 4 - 3 * (1 - math.cos(math.pi / 4)) / 2, "exponential": 4**0.75}
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"start": 1, "end": 0, "begin": 0.5, "until": 0.4}, "until .0.4. must not be before begin .0.5."),
        ({"start": 1, "end": 0, "shape": "exponential"}, "start and end above 0"),
        ({"start": 1, "end": 0, "until": 1.5}, "less than or equal to 1"),
        ({"start": 1}, "end: Field required"),
    ],
)
def test_a_ramp_that_makes_no_sense_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(dyt.SpecError, match=words):
        parse(Ramp, fields)


def test_a_constant_schedule() -> None:
    assert (at(3.0, 0.5), ends(3.0)) == (3.0, (3.0, 3.0))


def test_the_asked_rate() -> None:
    assert dyt.ObjectiveSpec(rate=0.4).asked_rate(0.0) == 0.4
    objective = dyt.ObjectiveSpec(rate=0.4, asked=Descent(start=1.0, until=0.5, shape="linear"))
    assert [objective.asked_rate(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.7, 0.4, 0.4])


def test_rates_per_layer_have_the_rate_as_their_mean() -> None:
    objective = parse(dyt.ObjectiveSpec, {"layer_rates": [0.2, 0.4, 0.9]})
    assert objective.rate == pytest.approx(0.5)
    assert objective.layer_rates == (0.2, 0.4, 0.9)
    assert parse(dyt.ObjectiveSpec, objective.model_dump(mode="json")) == objective
    assert parse(dyt.ObjectiveSpec, {"layer_rates": [0.2, 0.4], "rate": 0.3}).rate == 0.3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layer_rates": [0.2, 0.4], "rate": 0.5}, r"the mean of layer_rates is 0\.3 and rate is 0\.5; leave rate out"),
        ({"layer_rates": []}, "layer_rates has one rate for each dynamic block; leave it out for `rate` in all"),
        ({"layer_rates": [0.5, 0.0]}, r"layer_rates\.1: .*greater than 0 .*given 0\.0"),
        ({"layer_rates": [0.5, 1.5]}, r"layer_rates\.1: .*less than or equal to 1 .*given 1\.5"),
        ({"layer_rates": [0.5, "x"]}, r"layer_rates\.1: .*given 'x'"),
        ({"layer_rates": 0.5}, r"layer_rates: .*given 0\.5"),
    ],
)
def test_rates_per_layer_that_make_no_sense_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(dyt.SpecError, match=words):
        parse(dyt.ObjectiveSpec, fields)


def test_the_rate_asked_of_a_layer_comes_down_to_its_own() -> None:
    asked = {"start": 1.0, "until": 0.5, "shape": "linear"}
    objective = parse(dyt.ObjectiveSpec, {"layer_rates": [0.2, 0.8], "asked": asked})
    assert [objective.asked_of(0.2, p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("layers", [[], [1, 1]])
def test_layers_that_make_no_sense_are_refused(layers: list[int]) -> None:
    with pytest.raises(dyt.SpecError, match=r"variant\.layers: .*names at least one block, and none twice"):
        parse(dyt.DyTSpec, {"variant": {"type": "mlp", "layers": layers}})
