"""`dyt demo`: the library's main job in a minute or two, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    backbone: Annotated[
        str | None, typer.Option(help="A timm name with weights on the hub; by default the small one that ships.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Class folders, VTAB-1K lists or a saved HF data set; by default digits.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the runs and the picture.")] = Path("dyt_demo"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each run; 10 by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on with what is in OUT, or start anew.")] = True,
) -> None:
    """Fine-tune a linear probe, a static adapter and DyT (half of the tokens) side by side, and compare them."""
    from dyt.cli.output import console
    from dyt.demo import run_demo

    found = run_demo(out, backbone, data, epochs, resume=resume, say=typer.echo)
    console().print(found.table())
    speedup = found.speed.speedup("DyT", over="static adapter")
    typer.echo(f"DyT over the static adapter, images/s in paired turns: x {speedup}")
    typer.echo(f"which patches stayed active: {found.picture}")
