"""`dyt sweep`: a benchmark of many tasks, run and resumed as one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

FAILED = 1


class Benchmark(StrEnum):
    """What can be swept."""

    vtab1k = "vtab1k"


def sweep(
    benchmark: Annotated[Benchmark, typer.Argument(help="Which benchmark.")],
    root: Annotated[Path, typer.Option(help="Directory with a folder of lists for each task.")],
    out: Annotated[Path, typer.Option(help="Directory of the sweep; a run in it for each task.")],
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task, any number of times; by default all 19.")
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="Refuse to begin when a task is missing.")] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Tasks side by side; by default one, or one a device.", min=1)
    ] = None,
    devices: Annotated[str | None, typer.Option(help="CUDA devices, one for each task side by side: 0,1,2.")] = None,
    beside: Annotated[str, typer.Option(help="Row of the paper's table 3 to set beside the results.")] = "dyt_r0.5",
    recipe_name: Annotated[str | None, typer.Option("--recipe", help="default, vtab1k or images.")] = None,
    preset: Annotated[str | None, typer.Option(help="Model of a preset: dyt_vtab_r0.7, linear, ...")] = None,
    backbone: Annotated[str | None, typer.Option(help="A timm name.")] = None,
    weights: Annotated[str | None, typer.Option(help="pretrained, none, or a local file.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="field.field=value, any number of times.")] = None,
) -> None:
    """Fine-tune on every task of a benchmark; interrupt with Ctrl-C, run the same command again to go on.

    Finished tasks are not repeated. A failed task does not stop the others; the exit code is then 1.
    """
    from rich.table import Table

    from dyt.cli.output import console
    from dyt.cli.train import run_spec
    from dyt.sweeps import pool, report, vtab1k

    vtab1k.method(beside)
    found = vtab1k.Vtab1k.open(root, tasks or (), whole)
    if found.missing:
        typer.echo(f"missing in {root}: {', '.join(task.folders[0] for task in found.missing)}", err=True)
    if found.others:
        typer.echo(f"not of VTAB-1K, run with --task: {', '.join(found.others)}", err=True)
    options = {"data.root": str(root), "model.backbone.name": backbone, "model.backbone.weights": weights}
    run = run_spec(None, recipe_name or "vtab1k", preset, options, changes or [])
    each = [
        pool.Job(
            task.name,
            run.model_copy(update={"data": run.data.model_copy(update={"root": str(folder), "format": "vtab"})}),
            out / task.name,
        )
        for task, folder in found.present.items()
    ]
    use = [name.strip() for name in (devices or "").split(",") if name.strip()]
    title = (
        f"VTAB-1K with {run.model.backbone.name}, {run.train.epochs} epochs; paper: '{beside}' of table 3, ViT-B/16 "
        f"(IN-21k), 100 epochs. Per cent; means only of whole groups."
    )
    rows: list[report.Line] = []

    def write(outcomes: dict[str, pool.Outcome]) -> None:
        rows[:] = report.lines(list(found.present), outcomes, found.missing, beside)
        report.write_results(out, rows, beside, title)

    with pool.alone(out):
        outcomes = pool.sweep(each, parallel=jobs or max(len(use), 1), devices=use, finished=write)
    table = Table(title=title, title_justify="left")
    for name in report.HEADER:
        table.add_column(name, justify="left" if name in report.HEADER[:3] else "right")
    for row in (*rows, *report.totals(rows, beside)):
        table.add_row(*report.cells(row))
    console().print(table)
    typer.echo(f"written to {out}: results.md, results.csv, results.json, and each task's run")
    failed = {name: outcome.error for name, outcome in outcomes.items() if outcome.error is not None}
    for name, error in failed.items():
        typer.echo(f"dyt: {name} failed: {error}", err=True)
    if failed:
        raise typer.Exit(FAILED)
