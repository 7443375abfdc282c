"""`dyt bench`: a paired comparison with dense timm and the peers."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyt.cli.options import BudgetOption, Dtype, SetOption, TrustOption, WeightsOption, chosen, model_file, new_file

if TYPE_CHECKING:
    from dyt.measure.bench import Bench

WARMUP = 2


class Mode(StrEnum):
    """How every contender is run."""

    eager = "eager"
    compiled = "compiled"


def bench(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A preset or a spec file.")] = "dyt",
    model: Annotated[
        Path | None,
        typer.Option(
            help="A trained model.safetensors, or its run's directory, in place of SPEC.", callback=model_file
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Images for it to route; by default its run's.")] = None,
    weights: WeightsOption = None,
    trust_paths: TrustOption = False,
    backbone: Annotated[str | None, typer.Option(help="A timm name, in place of the spec's.")] = None,
    batch: Annotated[list[int], typer.Option(min=1, help="Images per call; may be given several times.")] = [8],  # noqa: B006 - typer's way
    rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Active share under forced masks.")] = 0.5,
    budget: BudgetOption = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Pixels of a side; the backbone's by default.")] = None,
    dtype: Annotated[list[Dtype], typer.Option(help="Of weights and images; may be given twice.")] = [Dtype.float32],  # noqa: B006
    mode: Annotated[list[Mode], typer.Option(help="Eager or compiled, all alike; may be given twice.")] = [Mode.eager],  # noqa: B006
    executor: Annotated[list[str], typer.Option(help="Of DyT; may be given several times.")] = ["sparse"],  # noqa: B006
    peers: Annotated[bool, typer.Option(help="Also time static adapter, merged LoRA, VPT, ToMe and EViT.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's own choice by default.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Timed rounds; 6 or more for a 95 % interval.")] = 11,
    assignments: SetOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file.", callback=new_file)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw time against multiply-accumulates.")] = None,
) -> None:
    """Time the dynamic model, dense timm and the peers in turns, with the work that each did beside it.

    Forced random masks on random weights; with --model a trained model's routers decide on real images.
    """
    import torch

    from dyt.cli.progress import rounds
    from dyt.inference.contenders import REWRITES
    from dyt.measure.bench import compare
    from dyt.measure.contenders import PEERS, check_executors, untrained
    from dyt.measure.plots import save_figure, writable
    from dyt.measure.speed import picture, table
    from dyt.train.saved import open_saved
    from dyt.writing import write_text

    if plot is not None:
        writable(plot)
    check_executors(executor)
    if threads is not None:
        torch.set_num_threads(threads)
    if model is not None:
        if spec != "dyt" or backbone or image_size or assignments:
            raise typer.BadParameter("a trained model has its backbone, size and spec; leave out what changes them")
        saved = open_saved(model, weights=weights, trust_paths=trust_paths)
        dynamic, inputs = saved.model, saved.sample(data, max(batch))
        if budget is not None:
            dynamic.budget = budget
    else:
        _check_untrained(data, budget, weights is not None or trust_paths)
        changes = [f"backbone.name={backbone}"] if backbone else []
        changes += [f"backbone.args.img_size={image_size}"] if image_size else []
        dynamic, inputs = untrained(chosen(spec, [*changes, *(assignments or [])]), max(batch))
    found: list[Bench] = []
    for size, precision, way in ((b, d, m) for d in dtype for m in mode for b in batch):
        with rounds(f"timing {size}, {precision}, {way}", pairs + WARMUP) as progress:
            one = compare(
                dynamic.to(device),
                inputs[:size].to(device),
                None if model is not None else rate,
                dtype=precision.value,
                compiled=way is Mode.compiled,
                pairs=pairs,
                warmup=WARMUP,
                executor_names=executor,
                peers=PEERS if peers else {},
                rewrites=REWRITES,
                progress=progress,
            )
        if found:
            typer.echo()
        for line in table(one):
            typer.echo(line)
        found.append(one)
    if json_file is not None:
        points = {"points": [one.data() for one in found]}
        write_text(json_file, json.dumps(points, indent=2) + "\n")
    if plot is not None:
        save_figure(picture(found), plot)


def _check_untrained(data: str | None, budget: float | None, weights: bool) -> None:
    """Refuses what only a trained model has.

    Raises:
        typer.BadParameter: what was given, and what to do.
    """
    if data is not None:
        raise typer.BadParameter("images are routed by a trained model; give its file as --model")
    if budget is not None:
        raise typer.BadParameter("a budget is of a trained model; give its file as --model, or --rate for masks")
    if weights:
        raise typer.BadParameter("an untrained model has random weights; leave out --weights and --trust-paths")
