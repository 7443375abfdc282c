"""`dyt eval`: accuracy or the task's metrics, activation and GMACs of a saved model on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dyt.cli.options import BudgetOption, ModelArgument, Precision, TrustOption, WeightsOption, active_share, one_of


def evaluate(
    model: ModelArgument,
    data: Annotated[str | None, typer.Option(help="Directory of the images; by default the run's.")] = None,
    split: Annotated[str | None, typer.Option(help="By default the run's test split.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Set the thresholds for this rate first, on training images; above 0, at most 1.",
            parser=active_share,
            metavar="RATE",
        ),
    ] = None,
    budget: BudgetOption = None,
    gmacs: Annotated[
        float | None, typer.Option(help="The same, for the rate of so many expected GMACs an image.", metavar="GMACS")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class names, one per line; by default beside the model.")
    ] = None,
    dtype: Annotated[
        Precision, typer.Option(help="Of weights and images; int8: of the blocks' weights alone.")
    ] = Precision.float32,
    weights: WeightsOption = None,
    trust_paths: TrustOption = False,
    workers: Annotated[int | None, typer.Option(help="Loader processes.", min=0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Evaluate a saved model on a split of its own or of other data."""
    import torch

    import dyt
    from dyt.cli.output import console
    from dyt.inference.thresholds import calibrate_thresholds
    from dyt.train.evaluation import evaluate as run
    from dyt.train.progress import Bar
    from dyt.train.result import report_table
    from dyt.train.saved import open_saved

    one_of(rate=rate, budget=budget, gmacs=gmacs)
    saved = open_saved(model, classes, weights, trust_paths)
    if budget is not None or gmacs is not None:
        saved.model.budget = dyt.Budget(gmacs=gmacs) if budget is None else budget
    kind = torch.bfloat16 if dtype is Precision.bfloat16 else torch.float32
    dynamic = dyt.quantize(saved.model) if dtype is Precision.int8 else saved.model.to(kind)
    spec = saved.spec(data, workers)
    chosen, bar = saved.split(spec, split), Bar(shown=True)
    if not chosen.named and saved.classes is not None:
        typer.echo("the data does not name its classes: label k is the model's class k, from 0", err=True)
    if rate is not None:
        held = [images.to(kind) for images in saved.calibration(spec)]
        with bar.task(f"setting the rate to {rate:g}", None):
            calibrate_thresholds(dynamic, held, rate)
    with bar.task("evaluating", len(chosen)) as task:
        batches = ((images.to(kind), y) for images, y in saved.batches(spec, chosen, range(len(chosen))))
        report = run(dynamic, batches, lambda count: bar.advance(task, count), saved.task, spec, saved.names)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        console().print(report_table(report, f"{chosen.name} of {spec.root}", saved.task.unit))
