"""Every field of every spec is described, in the JSON Schema and in `dyt spec --help` alike."""

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from torch import Tensor

import dyt
from dyt import registry
from dyt.adapters import Adapter, AdapterSpec
from dyt.config.base import Spec, description, spec_class
from dyt.config.fields import describe, described, fields, words
from dyt.core.data_config import DataConfig
from dyt.dispatchers import DispatcherSpec
from dyt.registry import KINDS
from dyt.train import RunSpec
from dyt.train.evaluation import Evaluation
from dyt.train.result import Result

ROOTS = (dyt.DyTSpec, RunSpec)
SPECS: list[type[BaseModel]] = list(
    dict.fromkeys([spec for _, spec, _ in fields(ROOTS)] + [DataConfig, Evaluation, Result, *ROOTS])
)
ALL = [(spec, field) for spec in SPECS for field in spec.model_fields]


def subclasses(cls: type[Spec]) -> set[type[Spec]]:
    return {cls}.union(*(subclasses(below) for below in cls.__subclasses__()))


KEPT = {"dyt.train.record", "dyt.train.resume", "dyt.train.surroundings"}
"""Modules whose specs nobody writes: what a run keeps of itself."""


def test_the_walk_reaches_every_spec_of_the_library() -> None:
    """Registered components, what runs and results are made of; bases are described through what derives from them."""
    for kind in ("dispatchers", "adapters", "variants", "tuners", "reducers", "heads"):
        assert {spec_class(component) for _, component in KINDS[kind].items()} <= set(SPECS)
    ours = {spec for spec in subclasses(Spec) if spec.__module__.startswith("dyt.")}
    covered = {base for spec in SPECS for base in spec.__mro__}
    kept = {spec for spec in ours if spec.__module__ in KEPT}
    assert not {spec.__name__ for spec in ours - covered - kept}


def test_no_field_is_without_a_description() -> None:
    missing = [f"{spec.__name__}.{field}" for spec, field in ALL if not (description(spec, field) or "").strip()]
    assert len(ALL) > 200
    assert not missing


def test_only_the_name_of_a_component_has_its_description_from_a_base_class() -> None:
    """Any other field that is redefined means something else, and says so."""
    inherited = {field for spec, field in ALL if not spec.model_fields[field].description}
    assert inherited == {"type"}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_descriptions_are_short_sentences(spec: type[BaseModel]) -> None:
    for field in spec.model_fields:
        text = " ".join((description(spec, field) or "").split())
        assert text.endswith("."), field
        assert text[0].isupper() or text[0] == "`" or text[0].isdigit(), field
        assert text.count("`") % 2 == 0, field
        assert len(text) < 420, field


def properties(schema: Any) -> list[dict[str, Any]]:
    """All parts of a schema that describe fields."""
    if isinstance(schema, list):
        return [found for each in schema for found in properties(each)]
    if not isinstance(schema, dict):
        return []
    own = list(schema["properties"].values()) if isinstance(schema.get("properties"), dict) else []
    return own + [found for key, each in schema.items() if key != "default" for found in properties(each)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_the_json_schema_has_every_description(spec: type[BaseModel]) -> None:
    schema = spec.model_json_schema()
    for field in spec.model_fields:
        assert schema["properties"][field]["description"] == description(spec, field), field
    assert all(part.get("description") for part in properties(schema))


def test_a_field_is_described_by_its_path() -> None:
    (rate,) = describe("objective.rate", ROOTS)
    assert (rate.type, rate.allowed, rate.default) == ("number", "above 0, at most 1", "0.5")
    assert "target activation rate" in rate.meaning
    assert describe("model.objective.rate", ROOTS) == [rate]
    (head,) = describe("head.type", ROOTS)
    assert (head.allowed, head.default) == (", ".join(dyt.list("heads")), "classifier")
    (temperature,) = describe("dispatcher.learned.temperature", ROOTS)
    assert (temperature.type, temperature.default) == ("number or mapping (Ramp)", "5.0")
    (epochs,) = describe("train.epochs", ROOTS)
    assert (epochs.type, epochs.allowed, epochs.default) == ("integer", "at least 1", "100")
    (learned,) = describe("dispatcher.learned", ROOTS)
    assert learned.parts == {"learned": ("type", "level", "temperature", "noise", "bias")}
    (tuner,) = describe("tuner", ROOTS)
    assert (tuner.type, tuner.default) == ("string or mapping or null", "null")
    (precision,) = describe("train.precision", ROOTS)
    assert (precision.allowed, precision.default) == ("no, bf16, fp16", "no")
    (start,) = describe("objective.features.start", ROOTS)
    assert start.default == "required"
    (task,) = describe("data.task", ROOTS)
    assert (task.allowed, task.default) == (
        "classification, video, segmentation, detection, features",
        "classification",
    )
    (frames,) = describe("data.video.frames", ROOTS)
    assert frames.default == "8"


def test_components_that_mean_something_else_by_a_field_are_told_apart() -> None:
    counted, drawn = describe("dispatcher.rate", ROOTS)
    assert (counted.owners, drawn.owners) == (("attention", "topk"), ("random",))
    assert counted.meaning != drawn.meaning
    (noise,) = describe("dispatcher.noise", ROOTS)
    assert noise.owners == ("learned", "topk")
    (level,) = describe("dispatcher.level", ROOTS)
    assert level.owners == ()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("objective.rte", "no field 'rte' in objective; did you mean 'rate'? allowed: asked, complete, "),
        ("objectve.rate", "no field 'objectve'; did you mean 'objective'? allowed: adapter, "),
        ("dispatcher.lerned", "no field 'lerned' in dispatcher; did you mean 'learned'? allowed: always, "),
        ("adapter.moe.expert", "no field 'expert' in adapter.moe; did you mean 'experts'? allowed: activation, "),
        ("train.epohcs", "no field 'epohcs' in train; did you mean 'epochs'? allowed: accumulate, "),
        ("objective.rate.start", "no field 'objective.rate.start'; objective.rate has no fields"),
        ("experts", "no field 'experts' at the top; allowed: adapter.moe.experts"),
        ("", "no field ''; allowed: adapter, "),
        ("objective.", "no field '' in objective; allowed: asked, "),
    ],
)
def test_an_unknown_field_is_answered_with_the_nearest(path: str, message: str) -> None:
    with pytest.raises(dyt.SpecError) as caught:
        describe(path, ROOTS)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_every_path_is_answered() -> None:
    for path in dict.fromkeys(path for path, _, _ in fields(ROOTS)):
        for one in describe(path, ROOTS):
            assert one.meaning, path
            assert one.type, path
            assert one.default or one.type == "string", path


class Undescribed(AdapterSpec):
    type: str = "undescribed"
    mode: Literal["a", "b"] = "a"
    sides: tuple[int, int] | None = None


class UndescribedAdapter(Adapter):
    """A plug-in of which no field is described."""

    Spec = Undescribed

    def forward(self, x: Tensor, padding: Tensor | None = None) -> None:
        return None


def test_a_plug_in_without_descriptions_works() -> None:
    with registry.adapters.temporary():
        registry.adapters("undescribed")(UndescribedAdapter)
        (mode,) = describe("adapter.undescribed.mode", ROOTS)
        assert (mode.meaning, mode.allowed, mode.default) == ("", "a, b", "a")
        (sides,) = describe("adapter.undescribed.sides", ROOTS)
        assert (sides.meaning, sides.type, sides.default) == ("", "list of 2 integers or null", "null")
        assert "undescribed" in describe("adapter.type", ROOTS)[0].allowed
        part = Undescribed.model_json_schema()["properties"]
        assert "description" not in part["mode"]
        assert part["type"]["description"] == description(AdapterSpec, "type")
        assert "sides" in json.dumps(dyt.DyTSpec.model_json_schema())


def test_a_class_without_a_source_has_no_descriptions_and_works() -> None:
    namespace: dict[str, Any] = {"DispatcherSpec": DispatcherSpec}
    source = 'class Typed(DispatcherSpec):\n    type: str = "typed"\n    k: int = 1\n    """How many."""\n'
    exec(compile(source, "<typed at a prompt>", "exec"), namespace)
    spec = namespace["Typed"]
    assert spec(k=2).k == 2
    assert description(spec, "k") is None
    assert description(spec, "level") == description(DispatcherSpec, "level")
    assert described(spec, "k").default == "1"


def test_a_description_may_be_given_to_the_field_as_well() -> None:
    class Given(Spec):
        k: Annotated[int, Field(ge=1, description="How many.")] = 1

    assert described(Given, "k").meaning == "How many."


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, ("number", "above 0, below 1")),
        ({"type": "integer", "minimum": 1, "maximum": 3}, ("integer", "1 to 3")),
        ({"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]}, ("number or null", "at least 0")),
        ({"type": "array", "items": {"type": "string"}}, ("list of strings", "")),
        ({"type": "array", "prefixItems": [{"type": "number"}] * 2}, ("list of 2 numbers", "")),
        ({"const": "a"}, ("string", "a")),
        ({"type": "object"}, ("mapping", "")),
        ({}, ("any value", "")),
    ],
)  # fmt: skip
def test_a_schema_in_words(schema: dict[str, Any], expected: tuple[str, str]) -> None:
    assert words(schema) == expected
