"""Law 6: a spec survives JSON and YAML unchanged; a wrong one is refused by field, value, choices and nearest name."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dyt
from dyt.config.base import Spec
from dyt.config.files import read, write
from dyt.config.spec import parse
from dyt.testing import laws
from laws.strategies import specs

many = settings(max_examples=100)


@many
@given(plain=specs())
def test_a_spec_survives_json_and_yaml(plain: dict[str, Any]) -> None:
    laws.spec_survives(plain)


@given(plain=specs(), suffix=st.sampled_from([".json", ".yaml", ".yml"]))
def test_a_spec_survives_a_file(plain: dict[str, Any], suffix: str) -> None:
    dumped = parse(dyt.DyTSpec, plain).model_dump(mode="json")
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"spec{suffix}"
        write(dumped, path)
        assert read(path) == dumped


def fields(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all mappings inside a spec's data that are specs themselves."""
    if not isinstance(value, dict) or path == ("backbone", "args"):
        return []
    return [path, *(found for key, inner in value.items() for found in fields(inner, (*path, key)))]


@many
@given(plain=specs(), data=st.data())
def test_an_unknown_field_is_named_with_the_nearest(plain: dict[str, Any], data: st.DataObject) -> None:
    """A letter too many in a field's name, anywhere."""
    path = data.draw(st.sampled_from(fields(plain)))
    inner = plain
    spec: Any = parse(dyt.DyTSpec, plain)
    for key in path:
        inner, spec = inner[key], getattr(spec, key)
    assert isinstance(spec, Spec)
    right = data.draw(st.sampled_from(sorted(type(spec).model_fields)))
    inner[f"{right}s"] = inner.get(right)
    with pytest.raises(dyt.SpecError) as caught:
        parse(dyt.DyTSpec, plain)
    message = str(caught.value)
    assert f"{right}s: no such field; did you mean '{right}'? allowed: " in message
    assert all(key in message for key in path)
    assert "\n" not in message


@many
@given(plain=specs(), data=st.data())
def test_a_wrong_component_is_named_with_the_nearest(plain: dict[str, Any], data: st.DataObject) -> None:
    slot = data.draw(st.sampled_from(["variant", "dispatcher", "adapter"]))
    allowed = dyt.list(f"{slot}s")
    right = data.draw(st.sampled_from(allowed))
    plain[slot] = {"type": f"{right}x"}
    with pytest.raises(dyt.SpecError) as caught:
        parse(dyt.DyTSpec, plain)
    message = str(caught.value)
    assert message.startswith(f"{slot}: ")
    assert f"'{right}x'" in message
    assert f"did you mean '{right}'?" in message
    assert all(name in message for name in allowed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": {"rate": 0.0}}, ["objective.rate", "greater than 0", "given 0.0"]),
        ({"objective": {"rate": 1.01}}, ["objective.rate", "less than or equal to 1", "given 1.01"]),
        ({"objective": {"rate": float("nan")}}, ["objective.rate", "given nan"]),
        ({"objective": {"rate_weight": float("inf")}}, ["objective.rate_weight", "finite", "given inf"]),
        ({"objective": {"distill": -1}}, ["objective.distill", "greater than or equal to 0", "given -1"]),
        ({"objective": {"asked": {"start": 2.0}}}, ["objective.asked.start", "less than or equal to 1", "given 2.0"]),
        ({"objective": {"asked": {"begin": 0.6}}}, ["objective", "until (0.5) must not be before begin (0.6)"]),
        ({"objective": {"control": "los"}}, ["objective.control", "'loss' or 'threshold'", "given 'los'"]),
        ({"head": {"num_classes": -1}}, ["head.num_classes", "given -1"]),
        ({"adapter": {"type": "bottleneck", "dim": 0}}, ["adapter.dim", "greater than or equal to 1", "given 0"]),
        ({"adapter": {"type": "bottleneck", "dropout": 1.0}}, ["adapter.dropout", "less than 1", "given 1.0"]),
        ({"adapter": {"type": "none", "dim": 8}}, ["adapter.dim: no such field; allowed: type", "given 8"]),
        ({"adapter": {"type": "moe", "experts": 0}}, ["adapter.experts", "greater than or equal to 1", "given 0"]),
        (
            {"adapter": {"type": "moe", "normalisation": "max"}},
            ["adapter.normalisation", "'softmax', 'sigmoid' or 'none'", "given 'max'"],
        ),
        ({"dispatcher": {"type": "topk", "level": "sample"}}, ["dispatcher.level", "leave level at token", "'sample'"]),
        ({"dispatcher": {"type": "attention", "rate": 0.5, "count": 2}}, ["dispatcher", "give one of them"]),
        ({"dispatcher": {"type": "learned", "level": "image"}}, ["dispatcher.level", "'token' or 'sample'", "'image'"]),
        ({"dispatcher": {"type": "learned", "temperature": 0}}, ["dispatcher.temperature", "above 0", "given 0"]),
        ({"dispatcher": {"type": "learned", "noise": -0.1}}, ["dispatcher.noise", "must not be below 0", "given -0.1"]),
        ({"dispatcher": {"type": "random", "rate": 0}}, ["dispatcher.rate", "greater than 0", "given 0"]),
        ({"dispatcher": 3}, ["dispatcher", "'type', one of: always", "given 3"]),
        ({"tuner": {"rank": 4}}, ["tuner", "'type', one of: bitfit", "given {'rank': 4}"]),
        ({"backbone": {"args": {"num_classes": 3}}}, ["backbone.args", "set head.num_classes"]),
        ({"backbone": {"args": {"cache_dir": "."}}}, ["backbone.args", "'cache_dir' is not an argument here"]),
        ({"backbone": {"args": {"pretrained_cfg": {"url": "x"}}}}, ["backbone.args", "'pretrained_cfg' is not an"]),
        ({"backbone": {"args": {"pretrained_cfg_overlay": {}}}}, ["'pretrained_cfg_overlay' is not an argument here"]),
        ({"backbone": {"args": {"x": float("inf")}}}, ["backbone.args.x", "finite"]),
        ({"trainable": "some"}, ["trainable", "'adapters' or 'full'", "given 'some'"]),
        ({"variant": {"type": "{x}"}}, ["variant", "'{x}'"]),
        ({1: 2}, ["1", "string"]),
    ],
)
def test_a_wrong_value_is_refused_with_field_value_and_what_is_allowed(
    change: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(dyt.SpecError) as caught:
        dyt.build(change)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert "{{" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("ramp", "path"),
    [
        ({"start": 1, "endd": 0}, "dispatcher.temperature.ramp.endd: no such field; did you mean 'end'?"),
        ({"start": "x", "end": 1}, "dispatcher.temperature.ramp.start: "),
        ({"start": 1, "end": 1, "shape": "line"}, "dispatcher.temperature.ramp.shape: "),
        ("warm", "dispatcher.temperature.number: "),
    ],
)
def test_a_wrong_schedule_is_answered_for_what_it_was_meant_to_be(ramp: Any, path: str) -> None:
    """Not once for the number and once for the ramp."""
    with pytest.raises(dyt.SpecError) as caught:
        dyt.build({"dispatcher": {"type": "learned", "temperature": ramp}})
    assert path in str(caught.value)
    assert "function" not in str(caught.value)
