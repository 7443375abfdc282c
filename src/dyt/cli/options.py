"""Options that several verbs share, and the spec that they make."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from dyt.spec import DyTSpec

SpecArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="SPEC", help="A preset ('dyt list presets'), or a .yaml, .yml or .json spec file.")
]
SetOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, e.g. objective.rate=0.7.")
]

WeightsOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Where the backbone's weights are now, when that file has moved."),
]


class Dtype(StrEnum):
    """Of weights and images."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Precision(StrEnum):
    """Of a model at inference: of weights and images; `int8` is of the blocks' weights alone (`dyt.quantize`)."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


def chosen(spec: str, assignments: Sequence[str] | None) -> DyTSpec:
    """The spec of a preset or a file, with `a.b=c` assignments over it.

    Raises:
        SpecError: an unknown preset, an unreadable file, or a spec that does not validate.
    """
    from dyt.assemble import resolve
    from dyt.spec import DyTSpec, parse
    from dyt.specfile import override

    return parse(DyTSpec, override(resolve(spec).model_dump(mode="json"), assignments or ()))
