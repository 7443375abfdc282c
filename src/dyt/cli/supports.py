"""`dyt supports`: which variants a timm model can have, or all families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dyt.assembly.support import Support


def supports(
    name: Annotated[
        str | None, typer.Argument(help="A name of timm's, for example vit_small_patch14_dinov2.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="The matrix of all families instead.")] = False,
) -> None:
    """Say which variants can be built on a timm model, and why not the others. Downloads nothing."""
    import dyt
    from dyt.errors import DyTError

    if (name is None) != every:
        raise DyTError("give one of: a name of timm's, or --all for the matrix of all families")
    if name is None:
        _matrix()
        return
    answer = dyt.supports(name)
    typer.echo(f"{name}: {f'family {answer.family}' if answer.family else 'not supported'}")
    for variant in answer.variants:
        typer.echo(f"  {variant}: yes")
    for variant, reason in answer.refused.items():
        typer.echo(f"  {variant}: no, {reason}")
    if not answer:
        raise typer.Exit(1)


def _matrix() -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from dyt.assembly.support import support_matrix
    from dyt.cli.output import console
    from dyt.registry import executors, variants

    rows = support_matrix()
    table = Table(box=SIMPLE_HEAD)
    for column in ("family", "for example", *variants.names()):
        table.add_column(column)
    reasons: dict[str, int] = {}
    for row in rows:
        cells = [_cell(row, variant, reasons) for variant in variants.names()]
        table.add_row(row.family, row.name or "given with backbone=", *cells)
    out = console()
    out.print(table)
    general = [name for name, executor in executors.items() if executor.limits is None]
    out.print(f"yes: with every executor ({', '.join(general)})")
    for name, executor in executors.items():
        if executor.limits is not None:
            out.print(f"executor {name}: {executor.limits}", highlight=False)
    for reason, number in reasons.items():
        out.print(f"no ({number}): {reason}", highlight=False)


def _cell(row: Support, variant: str, reasons: dict[str, int]) -> str:
    if variant in row:
        return "yes"
    return f"no ({reasons.setdefault(row.refused[variant], len(reasons) + 1)})"
