"""`dyt sweep`: a benchmark of many tasks, or a grid that is chosen from by validation, run and resumed as one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dyt.sweeps import Vtab1k
    from dyt.train.spec import RunSpec

FAILED = 1
BESIDE = "dyt_r0.5"
"""The row of table 3 that stands beside the results."""


class Benchmark(StrEnum):
    """What can be swept."""

    vtab1k = "vtab1k"


def sweep(
    data: Annotated[
        Path, typer.Option("--data", "--root", help="Directory with a folder of lists for each task, or one data set.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the sweep, with its runs.")],
    benchmark: Annotated[
        Benchmark | None,
        typer.Argument(
            help="vtab1k: its tasks, beside the paper's table. Without: all tasks in the data.", show_default=False
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=V,V", help="Values from which the best is chosen by validation, any number of times."
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=V,V", help="Values that are all reported; the grid is chosen from for each."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of every point: 0,1,2.", show_default="the recipe's")] = None,
    choose_once: Annotated[
        bool, typer.Option("--choose-once", help="Choose one point for all tasks, by their mean.")
    ] = False,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT", help="Split to choose by.", show_default="the data's, or a part of the training images"
        ),
    ] = None,
    show_optimism: Annotated[
        bool,
        typer.Option("--show-optimism", help="Also what picking each epoch by the test split would have claimed."),
    ] = False,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task, any number of times; by default all.")
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="Refuse to begin when a task of vtab1k is missing.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Runs side by side; by default one, or one a device.", min=1)] = None,
    devices: Annotated[str | None, typer.Option(help="CUDA devices, one for each run side by side: 0,1,2.")] = None,
    beside: Annotated[
        str | None,
        typer.Option(help="Row of the paper's table 3 to set beside the results of vtab1k.", show_default="dyt_r0.5"),
    ] = None,
    recipe_name: Annotated[
        str | None, typer.Option("--recipe", help="default, vtab1k, images, ...", show_default="vtab1k, or default")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Model of a preset: dyt_vtab_r0.7, linear, ...")] = None,
    backbone: Annotated[str | None, typer.Option(help="A timm name.")] = None,
    weights: Annotated[str | None, typer.Option(help="pretrained, none, or a local file.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="field.field=value, any number of times.")] = None,
) -> None:
    """Fine-tune on many tasks, or choose from a grid by validation; the same command again goes on.

    Finished runs are not repeated. A failed run does not stop the others; the exit code is then 1.
    """
    from dyt.cli.search import Asked, search
    from dyt.cli.train import run_spec

    asked = Asked(grid or (), compare or (), seeds, choose_once, validation, show_optimism)
    plainly = benchmark is not None and not asked.anything
    if beside is not None and not plainly:
        raise typer.BadParameter("--beside is of 'dyt sweep vtab1k' without a grid or seeds; leave it out")
    if whole and benchmark is None:
        raise typer.BadParameter("--all is of the tasks of a benchmark; give 'dyt sweep vtab1k', or leave it out")
    present = _present(benchmark, data, tasks or (), whole, beside)
    options = {"data.root": str(data), "model.backbone.name": backbone, "model.backbone.weights": weights}
    recipe = recipe_name or ("default" if benchmark is None else "vtab1k")

    def run(name: str | None, settings: list[str]) -> RunSpec:
        if name is not None and preset is not None:
            raise typer.BadParameter("--preset and an axis 'preset' both name the model; give one of them")
        return run_spec(None, recipe, name or preset, options, [*(changes or []), *settings])

    use = [name.strip() for name in (devices or "").split(",") if name.strip()]
    if plainly:
        _plain(present, run(None, []), out, beside or BESIDE, jobs or max(len(use), 1), use)
    else:
        search(asked, dict(present.present), out, run, jobs or max(len(use), 1), use)


def _present(benchmark: Benchmark | None, root: Path, tasks: Sequence[str], whole: bool, beside: str | None) -> Vtab1k:
    """The tasks that are there; those that are not are said."""
    from dyt.sweeps import vtab1k

    vtab1k.method(beside or BESIDE)
    if benchmark is None:
        return vtab1k.Vtab1k(vtab1k.tasks_in(root, tasks), (), ())
    found = vtab1k.Vtab1k.open(root, tasks, whole)
    if found.missing:
        typer.echo(f"missing in {root}: {', '.join(task.folders[0] for task in found.missing)}", err=True)
    if found.others:
        typer.echo(f"not of VTAB-1K, run with --task: {', '.join(found.others)}", err=True)
    return found


def _plain(found: Vtab1k, run: RunSpec, out: Path, beside: str, parallel: int, devices: Sequence[str]) -> None:
    """Every task of the benchmark once, beside the paper's row."""
    from rich.table import Table

    from dyt.cli.output import console
    from dyt.sweeps import pool, report

    each = [
        pool.Job(
            task.name,
            run.model_copy(update={"data": run.data.model_copy(update={"root": str(folder), "format": "vtab"})}),
            out / task.name,
        )
        for task, folder in found.present.items()
    ]
    title = (
        f"VTAB-1K with {run.model.backbone.name}, {run.train.epochs} epochs; paper: '{beside}' of table 3, ViT-B/16 "
        f"(IN-21k), 100 epochs. Per cent; means only of whole groups."
    )
    rows: list[report.Line] = []

    def write(outcomes: dict[str, pool.Outcome]) -> None:
        rows[:] = report.lines(list(found.present), outcomes, found.missing, beside)
        report.write_results(out, rows, beside, title)

    with pool.alone(out):
        outcomes = pool.sweep(each, parallel=parallel, devices=devices, finished=write)
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
