"""Hostile specs: refused by one bounded line of the library's own, whatever they are made of and by whichever way."""

import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm

import dyt
from dyt.assembly import extent
from dyt.cli.train import run_spec
from dyt.config.base import ComponentSpec
from dyt.config.files import LARGEST, override, parse_json, parse_yaml, read
from dyt.config.plain import DEEPEST, LONGEST_STRING, MOST_VALUES
from dyt.config.spec import DyTSpec, parse
from dyt.core.data_config import ENTRY, DataConfig, of_file
from dyt.errors import LONGEST_ERROR, nearest, quoted, shortened
from dyt.train.spec import RunSpec, TrainSpec

TINY: dict[str, Any] = {"name": "vit_tiny_patch16_224", "weights": "none", "args": {"depth": 2, "img_size": 32}}


def refused(act: Callable[[], Any]) -> str:
    """The line with which it is refused, in time."""
    begun = time.process_time()
    with pytest.raises(dyt.SpecError) as caught:
        act()
    assert time.process_time() - begun < 1
    message = str(caught.value)
    assert len(message) <= LONGEST_ERROR
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture(scope="module")
def attacks() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "attack_specs.py"
    spec = importlib.util.spec_from_file_location("attack_specs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["attack_specs"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_two_hundred_hostile_specs(attacks: ModuleType) -> None:
    outcome = attacks.attacked(count=200, seed=1)
    assert (outcome.foreign, outcome.wrong) == ([], [])
    assert outcome.slowest < attacks.SLOWEST
    assert outcome.accepted > 5
    assert outcome.refused > 100


def test_the_attacks_are_those_of_their_numbers(attacks: ModuleType) -> None:
    ways = [attacks.attack(3, number).way for number in range(40)]
    assert ways == [attacks.attack(3, number).way for number in range(40)]
    assert set(ways) == {"python", "yaml", "json", "text", "set"}


# --- types


@pytest.mark.parametrize(
    ("spec", "given", "words"),
    [
        (TrainSpec, {"epochs": "8"}, "epochs: Input should be a valid integer (given '8'; write it without quotes)"),
        (TrainSpec, {"epochs": 8.0}, "epochs: Input should be a valid integer (given 8.0; write 8)"),
        (TrainSpec, {"epochs": True}, "epochs: Input should be a valid integer (given True)"),
        (TrainSpec, {"lr": True}, "lr: Input should be a valid number (given True)"),
        (TrainSpec, {"lr": "1e-3"}, "lr: Input should be a valid number (given '1e-3'; write it without quotes)"),
        (TrainSpec, {"optimizer": 3}, "optimizer: Input should be a valid string (given 3; put it in quotes)"),
        (TrainSpec, {"optimizer": b"adamw"}, "optimizer: Input should be a valid string (given b'adamw')"),
        (TrainSpec, {"calibrate": 1}, "calibrate: Input should be a valid boolean (given 1; write true or false)"),
        (TrainSpec, {"calibrate": "true"}, "calibrate: Input should be a valid boolean (given 'true'; write true or"),
        (TrainSpec, {"seed": 2**63}, "seed: Input should be an integer of at most 64 bits (given 9223372036854775808)"),
        (TrainSpec, {"lr": 1e300}, "lr: Input should be at most 1e+18 in size (given 1e+300)"),
        (DyTSpec, {"objective": {"rate": True}}, "objective.rate: Input should be a valid number (given True)"),
        (DyTSpec, {"adapter": {"dim": "8"}}, "adapter.dim: Input should be a valid integer (given '8'"),
        (DyTSpec, {"adapter": {"scale": -1e308}}, "adapter.scale: Input should be at most 1e+18 in size"),
        (DyTSpec, {"variant": {"layers": ["1"]}}, "variant.layers.0: Input should be a valid integer (given '1'"),
        (DyTSpec, {"reducer": {"type": "tome", "r": 4.0}}, "reducer.r.int: Input should be a valid integer (given 4.0"),
        (DyTSpec, {"dispatcher": {"temperature": {"start": "1", "end": 2}}}, "temperature.ramp.start: Input should be"),
        (DyTSpec, {"dispatcher": {"temperature": 10**400}}, "(given <an integer of 1329 bits>)"),
        (DyTSpec, {"backbone": {"args": {"a": [2**63]}}}, "backbone.args: Value error, an integer has at most 64 bits"),
        (DyTSpec, {"backbone": {"args": {"a": {"b": 1e19}}}}, "a number is at most 1e+18 in size"),
        (DyTSpec, {"modules_to_save": {"a": 1}}, "modules_to_save: Input should be a valid tuple (given {'a': 1})"),
        (
            DyTSpec,
            {"dispatcher": {"temperature": {"start": 1e-300, "end": 1, "shape": "exponential"}}},
            "an exponential ramp changes its value by a factor of at most 1e+18",
        ),
    ],
)
def test_no_value_is_taken_for_one_of_another_type(spec: Any, given: dict[str, Any], words: str) -> None:
    assert words in refused(lambda: parse(spec, given))


def test_a_file_may_have_a_name_for_each_of_many_classes() -> None:
    names = tuple(f"class {i}" for i in range(21_843))
    entry = DataConfig(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, label_names=names).model_dump_json()
    found = of_file({ENTRY: entry}, "model.safetensors", len(names))
    assert found is not None
    assert found.label_names == names


def test_what_is_right_stays_right() -> None:
    given = {"lr": 1, "epochs": np.int64(3), "min_lr": np.float32(0.5), "weight_decay": np.int64(2)}
    spec = parse(TrainSpec, given)
    assert (spec.lr, spec.epochs, spec.min_lr, spec.weight_decay) == (1.0, 3, 0.5, 2.0)
    assert [type(value) for value in (spec.lr, spec.epochs)] == [float, int]
    found = parse(
        DyTSpec, {"variant": {"layers": [0, 1]}, "capacity": {"share": [1, 0.5]}, "modules_to_save": ["norm"]}
    )
    assert found.capacity is not None
    assert (found.capacity.share, found.modules_to_save) == ((1.0, 0.5), ("norm",))
    assert DyTSpec.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1", "0.001", ".1", "1.", "+1e-3"])
def test_numbers_of_yaml_are_numbers(text: str) -> None:
    changed = override({"train": {}}, [f"train.lr={text}"])["train"]
    assert parse(TrainSpec, changed).lr == float(text)
    assert parse(TrainSpec, parse_yaml(f"lr: {text}")).lr == float(text)


def test_the_types_of_a_plug_in_s_plain_fields_are_strict_as_well() -> None:
    class PlugInSpec(ComponentSpec):
        type: str = "plug_in"
        count: int = 1
        sizes: tuple[int, ...] = ()
        table: Mapping[str, float] = {}

    assert parse(PlugInSpec, {"sizes": [1, 2], "table": {"a": 1}}).sizes == (1, 2)
    for given in ({"count": 1.0}, {"sizes": ["1"]}, {"table": {"a": True}}, {"table": {1: 1.0}}, {"type": 3}):
        refused(lambda given=given: parse(PlugInSpec, given))  # type: ignore[misc]


def test_fields_with_the_names_of_a_schemas_own_keys_are_strict_as_well() -> None:
    class OddSpec(ComponentSpec):
        default: int = 1
        config: int = 1
        metadata: int = 1
        ref: int = 1

    for name in ("default", "config", "metadata", "ref"):
        assert name in refused(lambda name=name: parse(OddSpec, {"type": "a", name: "1"}))  # type: ignore[misc]


# --- sizes


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


def looped() -> dict[str, Any]:
    data: dict[str, Any] = {}
    data["backbone"] = {"args": {"a": [data, data]}}
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (nested(10_000), f"at most {DEEPEST} mappings and lists inside one another"),
        (looped(), f"at most {DEEPEST} mappings and lists|at most {MOST_VALUES} values"),
        ({"adapter": [[[1] * 100] * 100] * 100}, f"at most {MOST_VALUES} values"),
        ({str(i): 1 for i in range(10**6)}, f"at most {MOST_VALUES} values"),
        ({"x" * 10**7: 1}, f"at most {LONGEST_STRING} characters; given one of 10000000, which starts with 'xxx"),
        ({"trainable": "x" * 9_999}, r"trainable: .* \(given 'xxx.*\.\.\.\)"),
        ({f"f{i}": 1 for i in range(900)}, "f0: no such field; allowed: .*; and 89. more"),
        ({"a\nb\u2028": 1}, r"a b: no such field"),
    ],
)
def test_data_beyond_every_bound_is_refused_in_words(data: Any, words: str) -> None:
    assert re.search(words, refused(lambda: dyt.build(data)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 50_000, f"nested over {DEEPEST} deep at line 1, column {DEEPEST + 1}"),
        ("{a: " * 20_000, f"nested over {DEEPEST} deep"),
        ("- " * 40_000, f"nested over {DEEPEST} deep"),
        ("[" + "1," * 45_000 + "]", f"over {MOST_VALUES} values at line 1"),
        ("\n".join(f"k{i}: 1" for i in range(9_000)), f"over {MOST_VALUES} values at line"),
        ("x" * (LARGEST + 1), f"{LARGEST + 1} bytes; the text of a spec has at most {LARGEST}"),
        ("é" * LARGEST, f"{2 * LARGEST} bytes"),
        ("&a [*a]", "aliases are not allowed"),
        (f"{'x' * 900}: 1\n{'x' * 900}: 2", "duplicate key 'xxx"),
        (f"!{'x' * 90_000} 1", "tags (!xxx"),
    ],
)
def test_text_beyond_every_bound_is_refused_in_words(text: str, words: str) -> None:
    assert words in refused(lambda: parse_yaml(text, "f" * 10_000))


@pytest.mark.parametrize("text", ["[" * 90_000, '{"a":' * 15_000, "1" * 90_000, " " * (LARGEST + 1), "{" * 10])
def test_json_beyond_every_bound_is_refused(text: str) -> None:
    refused(lambda: parse_json(text, "f" * 10_000))


def test_json_that_is_deep_or_wide_is_refused_by_the_spec() -> None:
    for text in (json.dumps(nested(200)), json.dumps({"a": [0] * 9_000})):
        refused(lambda text=text: parse(DyTSpec, parse_json(text)))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        (".".join("a" * 5_000) + "=1", f"a path of 5000 names; at most {DEEPEST}"),
        ("." * 5_000 + "=1", "write it as field.field=value"),
        ("x" * 10**6, "write it as field.field=value"),
        ("a=" + "x" * 10**6, "1000000 bytes; the text of a spec has at most"),
        ("objective.x.y.z=1", "objective.x is 'xxx"),
    ],
)
def test_assignments_beyond_every_bound_are_refused_in_words(assignment: str, words: str) -> None:
    assert words in refused(lambda: override({"objective": {"x": "x" * 9_000, "y": []}, "y": 1}, [assignment, "y.z=1"]))


def test_no_more_is_read_of_a_file_than_a_spec_may_have(tmp_path: Path) -> None:
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    assert f"over {LARGEST} bytes; a spec file has at most {LARGEST}" in refused(lambda: read(tmp_path / "zero.yaml"))
    assert "no path (embedded null byte)" in refused(lambda: dyt.build("a\0.yaml"))
    assert "File name too long" in refused(lambda: dyt.build("a" * 100_000 + ".yaml"))
    assert "is neither a .yaml, .yml or .json file nor a preset" in refused(lambda: dyt.build("a" * 10**6))


# --- names that are no names


@pytest.mark.parametrize("value", [{"a": 1}, [1], 3, None, [[]], {"type": {}}], ids=repr)
@pytest.mark.parametrize("field", ["model", "train", "data.task", "model.head", "model.adapter.type", "data.size"])
def test_a_value_of_any_kind_in_the_place_of_a_name(field: str, value: Any) -> None:
    options = {"data.root": "images", "model.backbone.name": None, "model.backbone.weights": None}
    try:
        made = run_spec(None, None, None, options, [f"{field}={json.dumps(value)}"])
    except dyt.SpecError as error:
        assert field.partition(".")[0] in str(error)  # noqa: PT017
    else:
        assert field in {"data.size"}
        assert value in (3, None)
        assert isinstance(made, RunSpec)


@pytest.mark.parametrize("text", ["model: 3", "data: [1]", "train: x", "model: {head: [1]}"])
def test_a_file_whose_parts_are_no_mappings(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    options = {"data.root": "images", "model.backbone.name": None, "model.backbone.weights": "none"}
    for preset, task in (("dyt", None), (None, "video"), (None, None)):
        refused(lambda preset=preset, task=task: run_spec(path, None, preset, options, [], task))  # type: ignore[misc]


@pytest.mark.parametrize("name", [{}, [1], None, 3, "x" * 10**6, "\0", "a\nb"], ids=lambda name: repr(name)[:9])
def test_names_asked_for_by_functions(name: Any) -> None:
    for ask in (dyt.preset, dyt.supports):
        refused(lambda ask=ask: ask(name))  # type: ignore[misc]
    with pytest.raises(dyt.DyTError, match="no kind of component"):
        dyt.list(name)
    with pytest.raises(dyt.DyTError) as caught:
        dyt.registry.adapters.get(name)
    assert len(str(caught.value)) < 300


# --- models that cannot be built


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"adapter": {"dim": 10**7}}, "adapter.dim: Input should be less than or equal to 8192 (given 10000000)"),
        ({"adapter": {"type": "moe", "experts": 10**6}}, "adapter.experts: Input should be less than or equal to 256"),
        ({"adapter": {"type": "moe", "experts": 256, "dim": 8192}}, "experts * dim is at most 16384"),
        ({"tuner": {"type": "lora", "rank": 10**6}}, "tuner.rank: Input should be less than or equal to 8192"),
        ({"tuner": {"type": "vpt", "tokens": 10**6}}, "tuner.tokens: Input should be less than or equal to 4096"),
        ({"head": {"num_classes": 10**9}}, "head.num_classes: Input should be less than or equal to 1000000"),
        ({"head": {"type": "upernet", "channels": 10**6}}, "head.channels: Input should be less than or equal to 4096"),
    ],
)
def test_sizes_of_components_have_a_limit(spec: dict[str, Any], words: str) -> None:
    assert words in refused(lambda: dyt.build({"backbone": TINY, **spec}))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"depth": 100_000}, "backbone.args.depth: 100000 is 100000 blocks; at most 128"),
        ({"depth": 1e5}, "backbone.args.depth: 100000.0 is 100000 blocks; at most 128"),
        ({"depths": [60, 60, 60]}, "backbone.args.depths: (60, 60, 60) is 180 blocks; at most 128"),
        ({"img_size": 10**6}, "backbone.args.img_size: an integer is at most 16384 (given 1000000)"),
        ({"img_size": [32, 10**6]}, "backbone.args.img_size: an integer is at most 16384"),
        ({"embed_dim": 10**6}, "backbone.args.embed_dim: an integer is at most 65536"),
        ({"embed_dim": 65_536, "num_heads": 64, "depth": 128}, "GiB, and this machine has"),
        ({"mlp_ratio": 1e9}, "GiB, and this machine has"),
        ({"mlp_ratio": 1e17}, "timm refused"),
        ({"num_heads": 0}, "timm refused"),
        ({"patch_size": 0}, "timm refused"),
        ({"block_fn": 3}, "timm refused"),
        ({"x" * 5_000: 1}, "timm refused"),
    ],
)
def test_a_backbone_that_cannot_be_made_is_refused_before_memory_is_taken(args: dict[str, Any], words: str) -> None:
    spec = {"backbone": {**TINY, "args": {"depth": 2, "img_size": 32, **args}}}
    assert words in refused(lambda: dyt.build(spec))


def test_a_wrong_tag_is_refused_by_its_name() -> None:
    for args in ({}, {"depth": 1}):
        spec = {"backbone": {"name": "vit_tiny_patch16_224.nope", "weights": "none", "args": args}}
        assert "Invalid pretrained tag (nope)" in refused(lambda spec=spec: dyt.build(spec))  # type: ignore[misc]


def test_nothing_is_begun_that_the_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What all sites need is known from the first; the machine is said to be small."""
    spec = {"backbone": {**TINY, "args": {"depth": 4, "img_size": 32}}}
    one = extent.nbytes(dyt.build(spec).sites[0])
    monkeypatch.setattr(extent, "machine_memory", lambda: 4 * one)
    dyt.build(spec)
    monkeypatch.setattr(extent, "machine_memory", lambda: 4 * one - 1)
    assert "adapter 'bottleneck' at 4 sites: its parameters are" in refused(lambda: dyt.build(spec))


def test_what_a_backbone_needs_is_counted_right(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(extent, "check_memory", lambda needed, what: asked.append(needed))
    args = {"depth": 3, "img_size": 32, "mlp_ratio": 17.0}
    extent.check_arguments("vit_tiny_patch16_224", args, num_classes=7)
    assert asked == [extent.nbytes(timm.create_model("vit_tiny_patch16_224", num_classes=7, **args))]
    extent.check_arguments("vit_tiny_patch16_224", {**args, "mlp_ratio": 16.0})
    assert len(asked) == 1  # of ordinary size, and so not counted


def test_this_machine_says_its_memory() -> None:
    found = extent.machine_memory()
    assert found is None or 2**28 < found < 2**50


# --- what is quoted


def test_a_value_is_quoted_within_its_limit() -> None:
    assert quoted({"rank": 4, "b": [1, None, "x"]}) == "{'rank': 4, 'b': [1, None, 'x']}"
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("x" * 10**7)) == 60
    assert len(quoted([list(range(1000))] * 1000, 200)) <= 200
    assert quoted(10**5000) == "<an integer of 16610 bits>"
    assert len(quoted(nested(10_000))) <= 60
    assert len(quoted(looped())) <= 60


def test_an_error_is_one_line_whatever_is_put_into_it() -> None:
    assert str(dyt.SpecError("a\nb\x1b[31m\u2028c")) == r"a b\x1b[31m c"
    assert str(dyt.SpecError("a  b")) == "a  b"  # nothing is changed that need not be
    assert len(str(dyt.CheckpointError("x" * 5_000))) == LONGEST_ERROR
    assert shortened(" a\t b ", 9) == "a b"


def test_many_names_are_cut_and_counted() -> None:
    names = [f"name_{i:04}" for i in range(500)]
    said = nearest("name_0499", names)
    assert said.startswith("did you mean 'name_0499'? allowed: name_0000, name_0001, ")
    assert said.endswith(", ... (500 in all)")
    assert len(said) < 800
    assert nearest("x" * 10**7, names).startswith("allowed: ")
