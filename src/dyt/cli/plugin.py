"""`dyt new-plugin`: a package to start a plug-in from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new_plugin(
    name: Annotated[str, typer.Argument(help="The component's name, as specs will say it, for example top_half.")],
    kind: Annotated[
        str, typer.Option("--kind", help="dispatcher, adapter, variant, executor, family, tuner, reducer or head.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder in which the package's own folder is made.")] = Path(),
) -> None:
    """Write an installable package with a small working component and a passing test."""
    from dyt.scaffold import new_plugin

    folder = new_plugin(name, kind, out)
    typer.echo(f"{folder} is written; next: pip install -e '{folder}[test]' && pytest '{folder}'")
