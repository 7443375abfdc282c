"""`dyt spec`: a resolved spec, or the JSON Schema of all specs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dyt.cli.options import SetOption, SpecArgument, chosen


def spec(
    spec: SpecArgument = "dyt",
    assignments: SetOption = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema, for an editor.")] = False,
) -> None:
    """Print a spec whole, defaults filled in, as YAML."""
    from dyt.config.files import dump_yaml
    from dyt.config.spec import DyTSpec

    if schema:
        typer.echo(json.dumps(DyTSpec.model_json_schema(), indent=2))
    else:
        typer.echo(dump_yaml(chosen(spec, assignments).model_dump(mode="json")), nl=False)
