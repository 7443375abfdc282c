"""`dyt sweep` with a grid: its options as a search, and its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from dyt.sweeps import Task
    from dyt.train.spec import RunSpec

FAILED = 1


@dataclass(frozen=True)
class Asked:
    """What was asked for, as it was typed."""

    grid: Sequence[str]
    compare: Sequence[str]
    seeds: str | None
    once: bool
    validation: str | None
    optimism: bool

    @property
    def anything(self) -> bool:
        """Whether it makes a sweep over the tasks of a benchmark a search."""
        return bool(self.grid or self.compare or self.seeds or self.once or self.validation or self.optimism)


def search(
    asked: Asked,
    tasks: dict[Task, Path],
    out: Path,
    run: Callable[[str | None, list[str]], RunSpec],
    parallel: int,
    devices: Sequence[str],
) -> None:
    """Runs it, writes the results, and prints the tables.

    Args:
        run: the run of a preset (None: the one that was asked for) and of assignments over it.

    Raises:
        SweepError, SpecError, DataError: in one line.
        typer.Exit: with code 1 when a run has failed.
    """
    from rich.table import Table

    from dyt.cli.output import console
    from dyt.sweeps import search_tables
    from dyt.sweeps.grid import PRESET, Axis, Point, points
    from dyt.sweeps.search import Found, Search, run_search
    from dyt.sweeps.search_results import evidence, write_evidence

    def run_of(point: Point) -> RunSpec:
        settings = dict(point.settings)
        preset = settings.pop(PRESET, None)
        return run(preset, [f"{field}={value}" for field, value in settings.items()])

    axes = [Axis.of(text) for text in asked.grid], [Axis.of(text, "--compare") for text in asked.compare]
    runs = {point: run_of(point) for point in points(*axes)}
    seeds = _numbers(asked.seeds) if asked.seeds is not None else [next(iter(runs.values())).train.seed]
    wanted = Search(runs, tasks, seeds, asked.once, asked.optimism, asked.validation)
    for name, splits in wanted.splits.items():
        typer.echo(
            f"{name}: trained on {splits.train}, chosen by {splits.validation}; then on {splits.both}, tested on "
            f"{splits.test}",
            err=True,
        )
    backbone = next(iter(runs.values())).model.backbone.name
    title = f"# {_count(runs, 'point')} on {_count(tasks, 'task')} with {backbone}, seeds {', '.join(map(str, seeds))}"

    def write(found: Found) -> None:
        plain = evidence(wanted, found)
        text = "\n".join([f"{title}\n", *(table.markdown() for table in search_tables.tables(plain))])
        write_evidence(out, title.lstrip("# "), plain, text)

    found = run_search(wanted, out, parallel=parallel, devices=devices, finished=write)
    for shown in search_tables.tables(evidence(wanted, found)):
        table = Table(title=shown.heading, title_justify="left", caption=shown.note, caption_justify="left")
        for place, name in enumerate(shown.columns):
            table.add_column(name, justify="right" if place else "left", overflow="fold")
        for row in shown.rows:
            table.add_row(*row)
        console().print(table)
    typer.echo(f"written to {out}: results.md, results.json, and each run in validation/ and test/")
    outcomes = (*found.validated.items(), *found.tested.items())
    failed = {key: outcome.error for key, outcome in outcomes if outcome.error is not None}
    for (name, point, seed), error in failed.items():
        typer.echo(f"dyt: {name}, {point.label}, seed {seed} failed: {error}", err=True)
    if failed and not found.chosen:
        typer.echo(
            "dyt: nothing was chosen or tested, since a validation run failed: mend it and run the same command again, "
            "or leave its value out of the grid",
            err=True,
        )
    if failed:
        raise typer.Exit(FAILED)


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _numbers(text: str) -> list[int]:
    given = [each.strip() for each in text.split(",")]
    if not all(each.isascii() and each.isdigit() and len(each) < 10 for each in given) or len({*map(int, given)}) < len(
        given
    ):
        raise typer.BadParameter(f"--seeds {text[:60]}: give whole numbers from 0, each once, such as 0,1,2")
    return [int(each) for each in given]
