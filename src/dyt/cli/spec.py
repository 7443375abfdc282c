"""`dyt spec`: a resolved spec, the meaning of a field, or the JSON Schema of all specs."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from dyt.cli.options import SetOption, SpecArgument, chosen

if TYPE_CHECKING:
    from dyt.config.fields import Described

WIDEST = 100
"""Columns of a description; longer lines are hard to read."""


class SpecCommand(TyperCommand):
    """A command whose `--help` can be followed by a field, which is then explained in place of the command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Looks for `--help FIELD` (or `-h FIELD`) first: `--help` itself is a flag, and takes no value."""
        options = self.get_help_option_names(ctx)
        for option, field in pairwise(args):
            if option in options and not field.startswith("-"):
                for line in explained(field):
                    typer.echo(line)
                ctx.exit()
        return super().parse_args(ctx, args)


def spec(
    spec: SpecArgument = "dyt",
    assignments: SetOption = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema, for an editor.")] = False,
) -> None:
    """Print a whole spec as YAML, with its defaults filled in.

    With a field after --help, explain that field: dyt spec --help objective.rate, head.type, train.epochs.
    """
    from dyt.cli.probe import probe
    from dyt.config.files import dump_yaml
    from dyt.config.spec import DyTSpec

    if schema:
        probe()
        typer.echo(json.dumps(DyTSpec.model_json_schema(), indent=2))
    else:
        typer.echo(dump_yaml(chosen(spec, assignments).model_dump(mode="json")), nl=False)


def explained(path: str) -> Iterator[str]:
    """A field of a model spec or of a run, in lines: meaning, type, allowed values, default.

    Raises:
        SpecError: no such field.
    """
    from dyt.cli.probe import probe
    from dyt.config.fields import describe
    from dyt.config.spec import DyTSpec
    from dyt.train.spec import RunSpec

    probe()
    found = describe(path, (DyTSpec, RunSpec))
    yield path
    for one in found:
        yield from _lines(one)


def _lines(one: Described) -> Iterator[str]:
    rows = {"of": ", ".join(one.owners), "type": one.type, "allowed": one.allowed, "default": one.default}
    parts = one.parts or {}
    for name, fields in parts.items():
        rows[f"fields of {name}" if len(parts) > 1 else "fields"] = ", ".join(fields)
    width = min(shutil.get_terminal_size().columns, WIDEST)
    yield from textwrap.wrap(
        one.meaning or "No description.", width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    for title, text in rows.items():
        if text:
            line = f"{title}: {text}"
            yield from textwrap.wrap(line, width, initial_indent="    ", subsequent_indent="      ")
