"""The fields of specs in words: what each means, its type, default and allowed values, by its path in a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import cleandoc
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from dyt.config.base import Slot, description, spec_class
from dyt.config.files import flow_yaml
from dyt.errors import SpecError, nearest, quoted, shortened
from dyt.registry import KINDS

REQUIRED = "required"
NAMED_BY = ("type", "task")
"""The fields that name which one of several specs a mapping is."""
SUGGESTED = 5
"""At most this many paths are suggested for an unknown one."""


@dataclass(frozen=True)
class Described:
    """A field, or one of the specs that a field can hold, in words.

    Attributes:
        meaning: its description in one paragraph; empty where it has none.
        type: what kind of value it takes.
        allowed: which values of that kind; empty where all are allowed.
        default: as in YAML, or `required`.
        owners: the components whose field this is, where not all of the slot's components have it.
        parts: of a field that holds a spec, or one of several: the fields of each, by its name.
    """

    meaning: str
    type: str
    allowed: str = ""
    default: str = ""
    owners: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class _Choice:
    """The specs that a field can hold, by name, and the name of the one that is taken by default."""

    specs: Mapping[str, type[BaseModel]]
    default: str = REQUIRED
    named: bool = False
    """Whether `type` or `task` says which one it is, so that a path can name it."""
    bare: bool = False
    """Whether the name alone can stand for the mapping."""


def describe(path: str, roots: Sequence[type[BaseModel]]) -> list[Described]:
    """What stands at a path such as `objective.rate`, `head.type`, `dispatcher.learned` or `dispatcher.learned.bias`.

    A component may be named in the path. Where it is not, fields that several components have alike are described once,
    and the others one by one.

    Args:
        path: names of fields and components, joined by dots.
        roots: the specs that a path can start in.

    Raises:
        SpecError: no such field, with the nearest name.
    """
    keys = path.split(".")
    here = _Choice({root.__name__: root for root in roots})
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if here.named and key in here.specs:
            spec = here.specs[key]
            if last:
                return [Described(_summary(spec), spec.__name__, parts={key: tuple(spec.model_fields)})]
            here = _Choice({key: spec})
            continue
        owners = {name: spec for name, spec in here.specs.items() if key in spec.model_fields}
        if not owners:
            raise SpecError(_unknown(keys, depth, here, roots))
        if last:
            return _answers(key, owners, here)
        inner = [choice(spec.model_fields[key]) for spec in owners.values()]
        here = replace(inner[0], specs={name: spec for one in inner for name, spec in one.specs.items()})
    raise AssertionError("a path has at least one name")


def fields(roots: Sequence[type[BaseModel]]) -> Iterator[tuple[str, type[BaseModel], str]]:
    """(path, spec, field) of every field below the roots, those of all registered components included."""

    def below(spec: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel], str]]:
        for field, info in spec.model_fields.items():
            yield f"{prefix}{field}", spec, field
            inner = choice(info)
            for name, one in inner.specs.items():
                yield from below(one, f"{prefix}{field}.{name}." if inner.named else f"{prefix}{field}.")

    for root in roots:
        yield from below(root, "")


def described(spec: type[BaseModel], field: str) -> Described:
    """A field of a spec in words, whatever components there are beside it."""
    info, inner = spec.model_fields[field], choice(spec.model_fields[field])
    parts = {name: tuple(one.model_fields) for name, one in inner.specs.items()}
    if inner.named:  # not by its schema, which would have all of every component
        kind, allowed = "string or mapping" if inner.bare else "mapping", ", ".join(inner.specs)
        if not info.is_required() and info.default is None:
            kind += " or null"
    else:
        kind, allowed = words(_schema(info))
    return Described(_meaning(spec, field), kind, allowed, _default(info), parts=parts or None)


def choice(info: FieldInfo) -> _Choice:
    """The specs that a field can hold; none of a plain value's."""
    return _choice(info.annotation, info.metadata)


def _choice(annotation: Any, metadata: Sequence[Any] = ()) -> _Choice:
    for mark in metadata:
        if isinstance(mark, Slot):
            specs = {name: spec_class(component) for name, component in KINDS[mark.kind].items()}
            return _Choice(specs, mark.default or REQUIRED, named=True, bare=True)
    if get_origin(annotation) is Annotated:
        return _choice(get_args(annotation)[0], get_args(annotation)[1:])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        task = annotation.model_fields.get("task")
        name = annotation.__name__ if task is None else str(task.default)
        return _Choice({name: annotation}, name, named=task is not None)
    inner = [found for found in map(_choice, get_args(annotation)) if found.specs]
    if not inner:
        return _Choice({})
    return replace(inner[0], specs={name: spec for one in inner for name, spec in one.specs.items()})


def _answers(key: str, owners: Mapping[str, type[BaseModel]], here: _Choice) -> list[Described]:
    if here.named and key in NAMED_BY:
        return [Described(_meaning(next(iter(owners.values())), key), "string", ", ".join(here.specs), here.default)]
    alike: dict[Described, list[str]] = {}
    for name, spec in owners.items():
        alike.setdefault(replace(described(spec, key), parts=None), []).append(name)
    everyone = len(alike) == 1 and len(owners) == len(here.specs)
    shown = here.named and not everyone
    return [replace(described(owners[names[0]], key), owners=tuple(names) if shown else ()) for names in alike.values()]


def _unknown(keys: Sequence[str], depth: int, here: _Choice, roots: Sequence[type[BaseModel]]) -> str:
    before, key = ".".join(keys[:depth]), keys[depth]
    if not here.specs:
        return f"no field {quoted('.'.join(keys))}; {shortened(before)} has no fields"
    known = {field for spec in here.specs.values() for field in spec.model_fields}
    known |= set(here.specs) if here.named else set()
    elsewhere: dict[tuple[type[BaseModel], str], str] = {}
    for path, spec, field in () if before else fields(roots):
        if field == key:  # the last name of a path alone; a run has the model's fields a second time
            elsewhere.setdefault((spec, field), path)
    if elsewhere:
        more = ", ..." if len(elsewhere) > SUGGESTED else ""
        return f"no field {quoted(key)} at the top; allowed: {', '.join([*elsewhere.values()][:SUGGESTED])}{more}"
    return f"no field {quoted(key)}{f' in {shortened(before)}' if before else ''}; {nearest(key, known)}"


def _meaning(spec: type[BaseModel], field: str) -> str:
    return " ".join((description(spec, field) or "").split())


def _summary(spec: type[BaseModel]) -> str:
    return " ".join(cleandoc(spec.__doc__ or "").split("\n\n")[0].split())


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return REQUIRED
    default = info.get_default(call_default_factory=True)
    if isinstance(default, str):
        return default
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json", exclude_unset=True)
    return flow_yaml(list(default) if isinstance(default, tuple) else default)


def _schema(info: FieldInfo) -> Mapping[str, Any]:
    kind: Any = info.annotation
    for mark in info.metadata:
        kind = Annotated[kind, mark]
    schema: Mapping[str, Any] = TypeAdapter(kind).json_schema()
    return schema


def words(schema: Mapping[str, Any]) -> tuple[str, str]:
    """(kind of value, allowed values) of a JSON Schema, for example `("number or null", "above 0")`."""
    return _words(schema, schema.get("$defs", {}))


def _words(schema: Mapping[str, Any], models: Mapping[str, Any]) -> tuple[str, str]:
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        found = [_words(branch, models) for branch in branches]
        return " or ".join(kind for kind, _ in found), "; ".join(dict.fromkeys(each for _, each in found if each))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"mapping ({models.get(name, {}).get('title', name)})", ""
    if "enum" in schema or "const" in schema:
        return "string", ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type", "any value")
    if kind == "array":
        parts = schema.get("prefixItems") or [schema.get("items", {})]
        each, allowed = _words(parts[0], models)
        count = f"{len(parts)} " if "prefixItems" in schema else ""
        return f"list of {count}{each.replace(' or ', 's or ')}s", allowed
    if kind == "object":
        return f"mapping ({schema['title']})" if "title" in schema else "mapping", ""
    return kind, _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{_bound(low)} to {_bound(high)}"
    bounds = {
        "at least": low,
        "above": schema.get("exclusiveMinimum"),
        "at most": high,
        "below": schema.get("exclusiveMaximum"),
    }
    return ", ".join(f"{word} {_bound(bound)}" for word, bound in bounds.items() if bound is not None)


def _bound(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
