"""`dyt macs`: what a spec costs, without training or downloading anything."""

from __future__ import annotations

from typing import Annotated

import typer

from dyt.cli.options import SetOption, SpecArgument, chosen


def macs(
    spec: SpecArgument = "dyt",
    rate: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Nominal activation rate; the objective's by default.")
    ] = None,
    assignments: SetOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Images with random masks that are averaged.")] = 2,
) -> None:
    """Count multiply-accumulates per image (dense, complete, at the nominal rate) and trainable parameters.

    An image costs what its own active tokens need. Where images of a batch differ in their number, rows are added that
    are computed and thrown away: what is then executed per image has its own line.
    """
    from rich.table import Table

    from dyt.cli.output import console
    from dyt.measure.costs import costs
    from dyt.registry import KINDS
    from dyt.tasks.kinds import TASKS

    chosen_spec = chosen(spec, assignments)
    found = costs(chosen_spec, rate, batch)
    height, width = found.size
    table = Table(title=f"{chosen_spec.backbone.name}, variant {chosen_spec.variant.type}, {height} x {width}")
    table.add_column("")
    unit = TASKS[KINDS["heads"].get(chosen_spec.head.type).task].unit
    table.add_column(f"GMACs per {unit}", justify="right")
    table.add_column("of dense", justify="right")
    active = f"{found.rate:.0%} active"
    for what, value in (
        ("dense (plain timm)", found.dense),
        ("complete (every token active)", found.complete),
        (f"{active} (forced masks)", found.executed),
        (f"{active}, a batch of {found.images} with its padding", found.executed + found.padding),
    ):
        table.add_row(what, f"{value / 1e9:.3f}", f"{value / found.dense:.1%}")
    if chosen_spec.head.classifier == 0:
        table.add_row(f"of these, the head ({chosen_spec.head.type})", f"{found.head_macs / 1e9:.3f}", "")
    out = console()
    out.print(table)
    share = found.trainable / found.total
    out.print(
        f"trainable without head: {found.trainable:,} of {found.total:,} parameters ({share:.2%}); head: {found.head:,}"
    )
