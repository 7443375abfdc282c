"""What every spec is made of: the frozen base, and the open slot in which a plug-in's own spec validates itself."""

from __future__ import annotations

from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from dyt.config.scalars import strict
from dyt.errors import RegistryError, nearest
from dyt.registry import KINDS


class Spec(BaseModel):
    """Base of every spec: immutable, and refusing fields that it does not know.

    A field is described by the string below it. Editors and the API pages show that string, and pydantic puts it into
    the JSON Schema; `dyt spec --help FIELD` and the tables in the docs are made of it as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's schema, in which no number, string or boolean is taken for another."""
        return strict(handler(source))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Pydantic's schema; a field that is redefined without a description keeps the one of the base class."""
        made = handler(schema)
        for name, part in handler.resolve_ref_schema(made).get("properties", {}).items():
            described = description(cls, name)
            if described is not None:
                part.setdefault("description", described)
        return made

    @model_validator(mode="wrap")
    @classmethod
    def _answer_unknown_fields(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Names, for an unknown field, the nearest one and all that exist."""
        try:
            return handler(value)
        except ValidationError as error:
            if not any(line["type"] == "extra_forbidden" and len(line["loc"]) == 1 for line in error.errors()):
                raise
            lines = [cls._explained(cast(dict[str, Any], line)) for line in error.errors()]
            raise ValidationError.from_exception_data(cls.__name__, lines) from None

    @classmethod
    def _explained(cls, line: dict[str, Any]) -> InitErrorDetails:
        message = line["msg"]
        if line["type"] == "extra_forbidden" and len(line["loc"]) == 1:
            message = f"no such field; {nearest(str(line['loc'][0]), list(cls.model_fields))}"
        return {"type": PydanticCustomError(line["type"], message), "loc": line["loc"], "input": line["input"]}


def description(spec: type[BaseModel], field: str) -> str | None:
    """What a field means: its own description, or else that of the nearest base class that describes it."""
    for cls in spec.__mro__:
        if issubclass(cls, BaseModel) and field in cls.model_fields and cls.model_fields[field].description:
            return cls.model_fields[field].description
    return None


class ComponentSpec(Spec):
    """Base of a registered component's spec: `type` is the name it is registered under.

    A component class carries its spec class as the attribute `Spec`; a plug-in subclasses the spec of its kind
    (for example `dyt.dispatchers.DispatcherSpec`) and adds fields, each with a string below it that says what it means.
    """

    type: str
    """The name under which the component is registered; `dyt list` prints all names."""


class Slot:
    """Marks a field as an open slot: `Annotated[ComponentSpec, Slot("dispatchers")]`.

    The slot reads `type`, looks the component up in the registry of that kind and lets the component's own `Spec`
    validate the value. A component that is registered later needs no rebuild of the model that has the slot. A bare
    string is short for `{"type": string}`.

    Args:
        kind: the registry, for example `dispatchers`.
        default: the type of a mapping that has none; None for a slot that is empty by default, where `type` is
            required.
    """

    def __init__(self, kind: str, default: str | None = None) -> None:
        self.kind, self.default = kind, default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda spec, info: spec.model_dump(mode=info.mode), info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One alternative for each component that is registered when the schema is made."""
        registry = KINDS[self.kind]
        specs = [spec_class(registry.get(name)) for name in registry.names()]
        # Not `handler(...)` alone: it passes by what a class itself adds to its schema.
        return {"anyOf": [spec.__get_pydantic_json_schema__(spec.__pydantic_core_schema__, handler) for spec in specs]}

    def _validate(self, value: Any) -> ComponentSpec:
        registry = KINDS[self.kind]
        if isinstance(value, ComponentSpec):
            expected = spec_class(_component(self.kind, value.type))
            base = type(value) is not ComponentSpec and issubclass(expected, type(value))
            if base and not isinstance(value, expected):  # fields that were set are kept, the others have defaults
                return expected.model_validate({"type": value.type, **value.model_dump(exclude_unset=True)})
            if not isinstance(value, expected):
                raise PydanticCustomError("wrong_spec", f"the spec of '{value.type}' is a {expected.__name__}")
            return value
        if isinstance(value, str):
            value = {"type": value}
        if isinstance(value, dict) and self.default is not None and "type" not in value:
            return self._of_default(self.default, value)
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            allowed = ", ".join(registry.names())
            raise PydanticCustomError("no_type", f"needs a mapping with 'type', one of: {allowed}")
        return spec_class(_component(self.kind, value["type"])).model_validate(value)

    def _of_default(self, default: str, value: dict[str, Any]) -> ComponentSpec:
        """A mapping without `type`. The error for a field of another component names that component."""
        cls = spec_class(_component(self.kind, default))
        try:
            return cls.model_validate({"type": default, **value})
        except ValidationError as error:
            lines = [self._with_owner(cast(dict[str, Any], line)) for line in error.errors()]
            raise ValidationError.from_exception_data(cls.__name__, lines) from None

    def _with_owner(self, line: dict[str, Any]) -> InitErrorDetails:
        message = line["msg"]
        if line["type"] == "extra_forbidden" and len(line["loc"]) == 1:
            registry, field = KINDS[self.kind], str(line["loc"][0])
            owners = [n for n in registry.names() if field in spec_class(registry.get(n)).model_fields]
            message += f"; type: {owners[0]} has it, and no type is given" if owners else ""
        return {"type": PydanticCustomError(line["type"], message), "loc": line["loc"], "input": line["input"]}


def _component(kind: str, name: str) -> type:
    try:
        return KINDS[kind].get(name)
    except RegistryError as error:
        raise PydanticCustomError("unknown_component", str(error)) from None


def spec_class(component: type) -> type[ComponentSpec]:
    """The spec class of a registered component: its attribute `Spec`."""
    return cast(type[ComponentSpec], component.Spec)  # type: ignore[attr-defined]
