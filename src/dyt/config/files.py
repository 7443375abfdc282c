"""Reading and writing spec files, YAML or JSON, and `a.b=c` overrides.

YAML is read as plain data: no tags, no aliases (an alias bomb needs them), no duplicate keys, and YAML 1.2's numbers
and booleans (`1e-3` is a number; `no`, `on` and dates are strings).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dyt.config.plain import DEEPEST, MOST_VALUES
from dyt.errors import SpecError, quoted, shortened
from dyt.writing import write_text

LARGEST = 100_000
"""Bytes of a spec's text; a spec file is a page of text."""


class _Loader(yaml.SafeLoader):
    """Safe and strict: see the module's docstring. Text with too many values is left where there are too many."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.nodes = self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if event.tag is not None:
            raise yaml.MarkedYAMLError(
                problem=f"tags ({shortened(event.tag, 60)}) are not allowed", problem_mark=event.start_mark
            )
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if self.nodes > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"over {MOST_VALUES} values", problem_mark=event.start_mark)
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested over {DEEPEST} deep", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"keys must be strings, not {quoted(key)}", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {quoted(key)}", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_NUMBER = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


def parse_yaml(text: str, source: str = "YAML") -> Any:
    """Plain data from YAML text.

    Raises:
        SpecError: with the line and column.
    """
    source = shortened(source)
    _check_size(text, source)
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(f"{source}: {shortened(error.problem or error.context, 300)}{place}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{source}: {shortened(error, 300) or 'nested too deeply'}") from error


def _check_size(text: str, source: str) -> None:
    size = len(text) if len(text) > LARGEST else len(text.encode("utf-8", "surrogatepass"))
    if size > LARGEST:
        raise SpecError(f"{source}: {size} bytes; the text of a spec has at most {LARGEST}")


def parse_json(text: str, source: str = "JSON") -> Any:
    """Plain data from JSON text. (Not as YAML: PyYAML takes neither tabs nor escaped pairs such as `\\ud83d\\ude00`.)

    Raises:
        SpecError: not JSON, a duplicate key, NaN or Infinity.
    """
    source = shortened(source)
    _check_size(text, source)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{source}: {shortened(error, 300)}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(f"duplicate key {quoted(key)}")
        mapping[key] = value
    return mapping


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read(path: str | Path) -> dict[str, Any]:
    """The mapping in a .yaml, .yml or .json file.

    Raises:
        SpecError: no such file, too large, not UTF-8, not valid, or not a mapping.
    """
    path = Path(path)
    name = shortened(path)
    try:
        with path.open("rb") as file:  # whatever it is, a device or a pipe as well, no more than this is read of it
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise SpecError(f"{name}: over {LARGEST} bytes; a spec file has at most {LARGEST}")
        text = raw.decode("utf-8")
    except OSError as error:
        raise SpecError(
            f"{name}: {error.strerror or shortened(error)}; give the path of a .yaml, .yml or .json spec file"
        ) from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{name}: not UTF-8 text") from error
    except SpecError:
        raise
    except ValueError as error:  # a null character in the path
        raise SpecError(f"{name}: no path ({shortened(error)}); give that of a spec file") from error
    data = (parse_json if path.suffix == ".json" else parse_yaml)(text, str(path))
    if not isinstance(data, dict):
        raise SpecError(f"{name}: a spec file holds a mapping, not {type(data).__name__}")
    return data


def write(data: Mapping[str, Any], path: str | Path) -> None:
    """Writes plain data as .json, or as YAML for any other name, keys in their order.

    Raises:
        SpecError: it cannot be written.
    """
    path = Path(path)
    if path.suffix == ".json":
        write_text(path, json.dumps(data, indent=2) + "\n", SpecError)
    else:
        write_text(path, dump_yaml(data), SpecError)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would otherwise read as something else, and never writes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # In any other style PyYAML writes these line breaks of Unicode as they are, and reads them as spaces.
    style = '"' if any(c in text for c in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_str)
_Dumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Loader.yaml_implicit_resolvers.get(first, [])
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML text that `parse_yaml` reads back equal."""
    text: str = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def flow_yaml(value: Any) -> str:
    """A plain value as YAML on one line: `0.5`, `null`, `[1, 2]`, `{type: mlp}`."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=sys.maxsize
    )
    return text.removesuffix("...\n").strip()


def override(data: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Applies `a.b=c` assignments to nested data. Values are read as YAML (`0.3`, `true`, `[1, 2]`, `{start: 1}`).

    Setting `x.type` replaces the component: fields of the previous one are dropped.

    Raises:
        SpecError: an assignment without `=`, a path through something that is not a mapping, or one that is too long.
    """
    result: dict[str, Any] = json.loads(json.dumps(data))
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise SpecError(
                f"--set {shortened(assignment)}: write it as field.field=value, for example objective.rate=0.7"
            )
        if len(keys) > DEEPEST:
            raise SpecError(f"--set {shortened(assignment)}: a path of {len(keys)} names; at most {DEEPEST}")
        _assign(result, keys, parse_yaml(text, f"--set {shortened(assignment)}"), assignment)
    return result


def part(data: dict[str, Any], field: str) -> dict[str, Any]:
    """The mapping under a field of plain data, made and put there where there is none, or null.

    Raises:
        SpecError: something else is there.
    """
    inner = data.get(field)
    if inner is None:
        inner = data[field] = {}
    if not isinstance(inner, dict):
        raise SpecError(f"{field} is {quoted(inner)}, which has no fields; give a mapping")
    return inner


def _assign(data: dict[str, Any], keys: list[str], value: Any, assignment: str) -> None:
    for depth, key in enumerate(keys[:-1]):
        inner = data.setdefault(key, {})
        if inner is None:  # an optional part that is left out: `tuner.type=lora`
            inner = data[key] = {}
        if isinstance(inner, str) and depth == len(keys) - 2:  # a component by its name alone
            inner = data[key] = {"type": inner}
        if not isinstance(inner, dict):
            where = shortened(".".join(keys[: depth + 1]))
            raise SpecError(f"--set {shortened(assignment)}: {where} is {quoted(inner)}, which has no fields")
        data = inner
    if keys[-1] == "type" and data.get("type") != value:
        data.clear()
    data[keys[-1]] = value
