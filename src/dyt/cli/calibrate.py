"""`dyt calibrate`: from which activity on each site of a trained model computes every token, kept in its file."""

from __future__ import annotations

from typing import Annotated

import typer

from dyt.cli.options import ModelArgument, TrustOption, WeightsOption


def calibrate(
    model: ModelArgument,
    batch: Annotated[list[int], typer.Option(min=1, help="Images per call; may be given several times.")] = [1, 8, 32],  # noqa: B006 - typer's way
    data: Annotated[str | None, typer.Option(help="Directory of the images; by default the run's.")] = None,
    weights: WeightsOption = None,
    trust_paths: TrustOption = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default an accelerator, or else cpu.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's own choice by default.")] = None,
) -> None:
    """Measure each site's break-even on this machine, and store it in the model's file, which is rewritten.

    Above its break-even a site computes every token, with the same numbers, since that is faster then.
    """
    import torch

    import dyt
    from dyt.cli.progress import rounds
    from dyt.train.saved import open_saved

    if threads is not None:
        torch.set_num_threads(threads)
    saved = open_saved(model, weights=weights, trust_paths=trust_paths)
    images = saved.sample(data, max(batch))
    with rounds("timing sites", len(set(batch)) * len(saved.model.sites)) as progress:
        found = dyt.calibrate_break_even(saved.model, images, batch, device, lambda done, _: progress(done))
    dyt.save(saved.model, model)
    typer.echo(str(found))
    typer.echo(f"stored in {model}; measured on this machine with {torch.get_num_threads()} CPU threads")
