"""Open slots: a component registered late, or by someone else, validates its own spec inside the whole one."""

import json
from typing import Literal

import pydantic
import pytest
from pydantic import Field
from torch import Tensor

import dyt
from dyt import registry
from dyt.adapters import Adapter, AdapterSpec, BottleneckSpec
from dyt.config.base import ComponentSpec
from dyt.config.spec import parse
from dyt.dispatchers import AlwaysSpec


class Inner(AdapterSpec):
    """A nested spec of a plug-in."""

    type: str = "inner"
    depth: int = Field(default=1, ge=1)


class LateSpec(AdapterSpec):
    """A plug-in's spec."""

    type: str = "late"
    mode: Literal["a", "b"] = "a"
    inner: Inner = Inner()


class Late(Adapter):
    """A plug-in that is registered after the specs were made."""

    Spec = LateSpec

    def forward(self, x: Tensor) -> Tensor | None:
        return None


def test_a_late_component_needs_no_rebuild() -> None:
    with pytest.raises(dyt.SpecError, match="adapters has no 'late'"):
        parse(dyt.DyTSpec, {"adapter": "late"})
    with registry.adapters.temporary():
        registry.adapters("late")(Late)
        spec = parse(dyt.DyTSpec, {"adapter": {"type": "late", "mode": "b", "inner": {"depth": 3}}})
        assert spec.adapter == LateSpec(mode="b", inner=Inner(depth=3))
        assert dyt.DyTSpec.model_validate_json(spec.model_dump_json()) == spec
        with pytest.raises(dyt.SpecError, match=r"^adapter\.inner\.depth: .* greater than or equal to 1 \(given 0\)$"):
            parse(dyt.DyTSpec, {"adapter": {"type": "late", "inner": {"depth": 0}}})
        with pytest.raises(dyt.SpecError, match=r"^adapter\.inner\.dpth: no such field; did you mean 'depth'\?"):
            parse(dyt.DyTSpec, {"adapter": {"type": "late", "inner": {"dpth": 1}}})
        assert "LateSpec" in json.dumps(dyt.DyTSpec.model_json_schema())
    with pytest.raises(dyt.SpecError, match="adapters has no 'late'"):
        parse(dyt.DyTSpec, {"adapter": "late"})


def test_the_json_schema_has_every_registered_component() -> None:
    schema = dyt.DyTSpec.model_json_schema()
    for slot in ("variant", "dispatcher", "adapter"):
        alternatives = schema["properties"][slot].get("anyOf", [schema["properties"][slot]])
        parts = [schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part for part in alternatives]
        assert [part["properties"]["type"]["default"] for part in parts] == dyt.list(f"{slot}s")
        assert all(part["additionalProperties"] is False for part in parts)
    assert schema["additionalProperties"] is False


def test_a_name_alone_is_short_for_its_defaults() -> None:
    assert parse(dyt.DyTSpec, {"adapter": "bottleneck"}).adapter == BottleneckSpec()


def test_a_spec_object_is_taken_as_it_is() -> None:
    adapter = BottleneckSpec(dim=3)
    assert parse(dyt.DyTSpec, {"adapter": adapter}).adapter is adapter


def test_a_spec_object_of_another_kind_is_refused() -> None:
    with pytest.raises(dyt.SpecError, match=r"^adapter: adapters has no 'always'"):
        parse(dyt.DyTSpec, {"adapter": AlwaysSpec()})
    with pytest.raises(dyt.SpecError, match=r"^adapter: the spec of 'bottleneck' is a BottleneckSpec"):
        parse(dyt.DyTSpec, {"adapter": ComponentSpec(type="bottleneck")})


def test_several_faults_are_all_named() -> None:
    with pytest.raises(dyt.SpecError) as caught:
        parse(dyt.DyTSpec, {"adapter": {"type": "bottleneck", "dim": 0, "dmi": 1}, "objective": {"rate": 2}, "head": 3})
    message = str(caught.value)
    assert all(path in message for path in ("adapter.dim: ", "adapter.dmi: ", "objective.rate: ", "head: "))
    assert isinstance(caught.value.__cause__, pydantic.ValidationError)
    assert "\n" not in message


def test_a_long_value_is_shortened_in_the_answer() -> None:
    with pytest.raises(dyt.SpecError) as caught:
        parse(dyt.DyTSpec, {"trainable": "x" * 10_000})
    assert len(str(caught.value)) < 200


def test_the_type_that_is_not_given_is_the_default_in_every_slot_that_has_one() -> None:
    own = {
        "adapter": {"dim": 8},
        "dispatcher": {"noise": 0.0},
        "variant": {"layers": [0]},
        "head": {"num_classes": 7},
    }
    spec = parse(dyt.DyTSpec, own)
    plain = dyt.DyTSpec()
    for slot, fields in own.items():
        part = getattr(spec, slot)
        assert part.type == getattr(plain, slot).type
        assert part.model_fields_set == {"type", *fields}
        assert type(part) is type(getattr(plain, slot))
    assert parse(dyt.DyTSpec, {"adapter": {}}) == plain
    assert parse(dyt.DyTSpec, {"adapter": {"activation": "relu"}}).adapter.type == "bottleneck"  # `moe` has it too


@pytest.mark.parametrize("slot", ["tuner", "reducer"])
def test_a_slot_that_is_empty_by_default_needs_a_type(slot: str) -> None:
    with pytest.raises(dyt.SpecError, match=rf"^{slot}: needs a mapping with 'type', one of: "):
        parse(dyt.DyTSpec, {slot: {}})


def test_an_unknown_field_without_a_type_is_answered_with_the_nearest_name_or_its_owner() -> None:
    with pytest.raises(dyt.SpecError, match=r"^adapter\.dmi: no such field; did you mean 'dim'\?"):
        parse(dyt.DyTSpec, {"adapter": {"dmi": 8}})
    with pytest.raises(
        dyt.SpecError, match=r"^adapter\.experts: no such field; .*type: moe has it, and no type is given"
    ):
        parse(dyt.DyTSpec, {"adapter": {"experts": 4}})
    with pytest.raises(dyt.SpecError, match=r"^adapter\.experts: no such field") as caught:
        parse(dyt.DyTSpec, {"adapter": {"type": "bottleneck", "experts": 4}})
    assert "moe" not in str(caught.value)
