"""`dyt paper`: the paper's tables that need no data, computed, beside what is printed there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyt.cli.options import new_file

if TYPE_CHECKING:
    from dyt.paper.costs import Line

COLUMNS = ("table", "row", "preset", "M", "paper", "off", "GMACs", "ragged", "paper", "off")
WORDS = ("row", "preset")


def paper(
    table: Annotated[
        list[int] | None, typer.Option("--table", help="Only this table, e.g. 1; may be given more than once.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Also write the table as Markdown to this file.", callback=new_file)
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images with random masks that are averaged.")] = 4,
) -> None:
    """Build each preset of the paper on random weights; compare parameters (M) and multiply-accumulates (GMACs).

    `GMACs` has exactly the nominal share of each image's tokens active, `ragged` random masks around that share.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from dyt.cli.output import console
    from dyt.cli.progress import rounds
    from dyt.paper.costs import lines, rows_of
    from dyt.writing import write_text

    wanted = rows_of(table or [])
    found: list[Line] = []
    with rounds("rows", len(wanted)) as done:
        for line in lines(wanted, images):
            found.append(line)
            done(len(found))
    rows = [cells(line) for line in found]
    out = console()
    for number in sorted({line.row.table for line in found}):
        shown = Table(title=f"Table {number}", title_justify="left", box=SIMPLE_HEAD)
        for column in COLUMNS[1:]:
            shown.add_column(column, justify="left" if column in WORDS else "right")
        for row in rows:
            if row[0] == str(number):
                shown.add_row(*row[1:])
        out.print(shown)
    if markdown is not None:
        rule = ["---" if column in WORDS else "---:" for column in COLUMNS]
        text = "\n".join(f"| {' | '.join(row)} |" for row in (COLUMNS, rule, *rows))
        write_text(markdown, text + "\n")
        typer.echo(f"written to {markdown}")


def cells(line: Line) -> list[str]:
    """A line as words, by `COLUMNS`."""
    row = line.row
    return [
        str(row.table),
        row.name,
        row.preset,
        f"{line.params:.2f}",
        "" if row.params is None else f"{row.params:g}",
        _off(line.params_off),
        f"{line.nominal:.2f}",
        f"{line.measured:.2f}",
        "" if row.gmacs is None else f"{row.gmacs:g}",
        _off(line.gmacs_off),
    ]


def _off(share: float | None) -> str:
    return "" if share is None else f"{share:+.1%}"
