"""`dyt calibrate`: what is measured of a trained model after its training, kept in its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyt.cli.options import ModelArgument, TrustOption, WeightsOption

if TYPE_CHECKING:
    from dyt.train.saved import Saved


def calibrate(
    model: ModelArgument,
    batch: Annotated[list[int], typer.Option(min=1, help="Images per call; may be given several times.")] = [1, 8, 32],  # noqa: B006 - typer's way
    data: Annotated[str | None, typer.Option(help="Directory of the images; by default the run's.")] = None,
    weights: WeightsOption = None,
    trust_paths: TrustOption = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default an accelerator, or else cpu.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's own choice by default.")] = None,
    budgets: Annotated[
        bool, typer.Option("--budgets", help="Find the thresholds of every rate on training images instead.")
    ] = False,
) -> None:
    """Measure each site's break-even on this machine, and store it in the model's file, which is rewritten.

    Above its break-even a site computes every token, with the same numbers, since that is faster then. With --budgets
    the thresholds of all rates are stored instead, for dyt eval --budget and model.budget.
    """
    import torch

    import dyt
    from dyt.cli.progress import rounds
    from dyt.train.saved import open_saved

    if threads is not None:
        torch.set_num_threads(threads)
    saved = open_saved(model, weights=weights, trust_paths=trust_paths)
    if budgets:
        _budgets(saved, model, data, max(batch), device)
        return
    images = saved.sample(data, max(batch))
    with rounds("timing sites", len(set(batch)) * len(saved.model.sites)) as progress:
        found = dyt.calibrate_break_even(saved.model, images, batch, device, lambda done, _: progress(done))
    dyt.save(saved.model, model)
    typer.echo(str(found))
    typer.echo(f"stored in {model}; measured on this machine with {torch.get_num_threads()} CPU threads")


def _budgets(saved: Saved, path: Path, data: str | None, batch: int, device: str | None) -> None:
    import torch

    import dyt
    from dyt.cli.progress import rounds
    from dyt.inference.budget import row_gmacs
    from dyt.inference.budgets import RATES

    if device is not None:
        saved = replace(saved, model=saved.model.to(device), device=torch.device(device))
    held = list(saved.calibration(saved.spec(data), batch))
    with rounds("calibrating rates", len(RATES)) as progress:
        table = dyt.calibrate_budgets(saved.model, held, progress=lambda done, _: progress(done))
    dyt.save(saved.model, path)
    for rate, reached, gmacs in zip(table.rates, table.reached, row_gmacs(saved.model), strict=True):
        typer.echo(f"rate {rate:g}: reached {reached:.3f}, {gmacs:.4g} GMACs")
    typer.echo(f"stored in {path}; found on {sum(map(len, held))} training images")
