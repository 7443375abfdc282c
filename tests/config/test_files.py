"""Spec files: YAML and JSON as plain data only, and `--set` overrides."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dyt
from dyt.config.files import LARGEST, dump_yaml, override, parse_json, parse_yaml, read, write

STRINGS = [
    "1e-3",
    "no",
    "on",
    "yes",
    "true",
    "null",
    "~",
    "",
    " ",
    "012",
    "0x1f",
    "1_000",
    ".5",
    "1.",
    "-",
    "+1",
    "=",
    "<<",
]
STRINGS += [
    "2020-01-01",
    "12:30:45",
    ".inf",
    ".nan",
    "a: b",
    "# c",
    "*x",
    "&x",
    "!x",
    "\x85",
    "\u2028",
    "\ufeffa",
    "a\n\n b\n",
    "é😀",
]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("+7", 7),
        ("12", 12),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        *(
            (text, text)
            for text in (
                "no",
                "on",
                "yes",
                "off",
                "y",
                "N",
                "2020-01-01",
                "0x10",
                "0o7",
                "1_000",
                "12:30",
                ".inf",
                "1e",
                "<<",
            )
        ),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x", "aliases are not allowed at line 2, column 4"),
        ("a: 1\nb: 2\na: 3", "duplicate key 'a' at line 3, column 1"),
        ("a: {b: 1, b: 2}", "duplicate key 'b' at line 1"),
        ("a: !!python/object/apply:os.system ['true']", "tags .* are not allowed at line 1, column 4"),
        ("a: !!python/name:os.system", "tags .* are not allowed"),
        ("a: !!set {b}", "tags .* are not allowed"),
        ("a: !!timestamp 2020-01-01", "tags .* are not allowed"),
        ("a: !!binary aGk=", "tags .* are not allowed"),
        ("a: !mine 1", "tags .* are not allowed"),
        ("!!map {a: 1}", "tags .* are not allowed"),
        ("1: 2", "keys must be strings, not 1"),
        ("true: 2", "keys must be strings, not True"),
        ("? [a]\n: 1", "keys must be strings"),
        ("a: [", "line 1"),
        ("a: b: c", "line 1"),
        ("--- 1\n--- 2", "another document"),
        ("\x00", "not allowed"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("[" * 5000, "nested over 32 deep at line 1"),
        ("a: {" * 5000, "nested over 32 deep"),
    ],
)
def test_what_is_not_plain_data_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(dyt.SpecError, match=words) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value).startswith("f.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_merge_key_is_a_key() -> None:
    assert parse_yaml("<<: {a: 1}") == {"<<": {"a": 1}}


@pytest.mark.parametrize("text", STRINGS)
def test_strings_stay_strings(text: str) -> None:
    assert parse_yaml(dump_yaml({"a": text, "b": [text], "c": {"d": text}})) == {
        "a": text,
        "b": [text],
        "c": {"d": text},
    }


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(STRINGS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(st.dictionaries(st.text(), plain_values, max_size=3))
def test_any_plain_data_survives_yaml(data: dict[str, Any]) -> None:
    assert parse_yaml(dump_yaml(data)) == data


def test_shared_lists_are_written_out() -> None:
    shared = [1, 2]
    assert "*" not in dump_yaml({"a": shared, "b": shared})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ("{'a': 1}", "line 1 column 2"),
        ('{"a": 1} x', "Extra data"),
        ("[" * 100_000, "recursion"),
        ("", "line 1"),
    ],
)
def test_json_is_read_strictly(text: str, words: str) -> None:
    with pytest.raises(dyt.SpecError, match=words) as caught:
        parse_json(text, "f.json")
    assert str(caught.value).startswith("f.json: ")
    assert "\n" not in str(caught.value)


def test_json_of_other_writers(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{\n\t"a": "\\ud83d\\ude00 \\/ \\u00e9",\n\t"b": [1e-3, true]\n}\n')
    assert read(path) == {"a": "😀 / é", "b": [1e-3, True]}


def test_files_that_are_no_specs(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    with pytest.raises(dyt.SpecError, match="No such file"):
        read(path)
    with pytest.raises(dyt.SpecError, match="directory"):
        read(tmp_path)
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(dyt.SpecError, match="not UTF-8"):
        read(path)
    path.write_text("a: " + "x" * LARGEST)
    with pytest.raises(dyt.SpecError, match=f"over {LARGEST} bytes; a spec file has at most {LARGEST}"):
        read(path)
    for text, kind in (("- 1", "list"), ("", "NoneType"), ("a", "str")):
        path.write_text(text)
        with pytest.raises(dyt.SpecError, match=f"holds a mapping, not {kind}"):
            read(path)


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_build_reads_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"spec{suffix}"
    spec = {"backbone": {"name": "vit_tiny_patch16_224", "weights": "none", "args": {"img_size": 32, "depth": 1}}}
    write(spec, path)
    assert dyt.build(path).spec == dyt.build(str(path)).spec == dyt.DyTSpec.model_validate(spec)


BASE = {
    "variant": "attn",
    "adapter": {"type": "bottleneck", "dim": 8},
    "objective": {"rate": 0.5},
    "backbone": {"args": {}},
}


@pytest.mark.parametrize(
    ("assignments", "path", "value"),
    [
        (["objective.rate=0.7"], ("objective", "rate"), 0.7),
        (["objective.rate = 1e-3"], ("objective", "rate"), 1e-3),
        (["head.num_classes=10"], ("head", "num_classes"), 10),
        (["backbone.args.img_size=[32, 48]"], ("backbone", "args", "img_size"), [32, 48]),
        (["dispatcher.temperature={start: 5, end: 0.1}"], ("dispatcher", "temperature"), {"start": 5, "end": 0.1}),
        (["adapter.type=none"], ("adapter",), {"type": "none"}),
        (["adapter.type=bottleneck"], ("adapter",), {"type": "bottleneck", "dim": 8}),
        (
            ["adapter.type=none", "adapter.type=bottleneck", "adapter.dim=4"],
            ("adapter",),
            {"type": "bottleneck", "dim": 4},
        ),
        (["backbone.weights=a=b.safetensors"], ("backbone", "weights"), "a=b.safetensors"),
        (["trainable=full"], ("trainable",), "full"),
        (["objective.asked="], ("objective", "asked"), None),
        (["variant.layers=[0]"], ("variant",), {"type": "attn", "layers": [0]}),
        (["variant.type=mlp"], ("variant",), {"type": "mlp"}),
    ],
)
def test_overrides(assignments: list[str], path: tuple[str, ...], value: Any) -> None:
    found: Any = override(BASE, assignments)
    for key in path:
        found = found[key]
    assert found == value


def test_overrides_leave_what_they_were_given() -> None:
    data = {"objective": {"rate": 0.5}}
    override(data, ["objective.rate=0.7"])
    assert data == {"objective": {"rate": 0.5}}


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("objective.rate", "write it as field.field=value"),
        ("=3", "write it as"),
        ("objective..rate=1", "write it as"),
        ("objective.rate.x=1", "objective.rate is 0.5, which has no fields"),
        ("objective.rate=*x", "aliases are not allowed"),
        ("objective.rate=[", "line 1"),
    ],
)
def test_a_wrong_override_is_refused(assignment: str, words: str) -> None:
    with pytest.raises(dyt.SpecError, match=words) as caught:
        override(BASE, [assignment])
    assert f"--set {assignment}" in str(caught.value)


@pytest.mark.parametrize("base", [{}, {"dispatcher": "learned"}, {"dispatcher": {"level": "token"}}])
def test_an_override_reaches_the_component_that_is_there_by_default(base: dict[str, Any]) -> None:
    spec = dyt.DyTSpec.model_validate(override(base, ["dispatcher.noise=0", "adapter.dim=3"]))
    assert (spec.dispatcher.type, dict(spec.dispatcher)["noise"], dict(spec.adapter)["dim"]) == ("learned", 0, 3)
