"""Options that several verbs share, and the spec that they describe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from dyt.config.spec import DyTSpec

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

TrustOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--trust-paths", help="Open whatever the model's file names: weights, a repository. For files of your own."
    ),
]


def one_of(**given: float | None) -> None:
    """Refuses more than one of options of which at most one can be given.

    Raises:
        typer.BadParameter: naming them.
    """
    names = [f"--{name}" for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise typer.BadParameter(f"{' and '.join(names)} both say what an image may cost; give one of them")


def active_share(text: str | float) -> float:
    """A rate that thresholds can be set for, above 0 and at most 1.

    Raises:
        typer.BadParameter: any other value.
    """
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= 1:
        raise typer.BadParameter(f"{text} is not a rate above 0 and at most 1")
    return rate


BudgetOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help="Set the thresholds that its file has for this rate first (dyt calibrate --budgets).",
        parser=active_share,
        metavar="RATE",
    ),
]


def new_file(path: Path | None) -> Path | None:
    """A file that can be written, or an error before anything is computed."""
    from dyt.writing import check_target

    if path is not None:
        check_target(path)
    return path


def model_file(path: Path | None) -> Path | None:
    """The file itself, or the model in the directory of a run.

    Raises:
        DyTError: a directory without a model.
    """
    from dyt.errors import DyTError
    from dyt.train.state import CHECKPOINT, MODEL

    if path is None or not path.is_dir():
        return path
    if (path / MODEL).is_file():
        return path / MODEL
    begun = (path / CHECKPOINT).is_file()
    what = "has a run that is not finished: run the same dyt train again" if begun else "has no finished run"
    raise DyTError(f"'{path}' {what}; give a {MODEL}, or the directory of a run that has one")


ModelArgument: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A model.safetensors of dyt, or the directory of its run.", callback=model_file
    ),
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
    from dyt.assembly.build import resolve
    from dyt.config.files import override
    from dyt.config.spec import DyTSpec, parse

    return parse(DyTSpec, override(resolve(spec).model_dump(mode="json"), assignments or ()))
