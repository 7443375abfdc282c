"""`dyt plot`: what a trained model kept active, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dyt.cli.options import ModelArgument, TrustOption, WeightsOption


def plot(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files, a row each.")],
    out: Annotated[Path, typer.Option(help="The picture; its ending decides the format.")] = Path("activity.png"),
    chart: Annotated[bool, typer.Option("--chart", help="Bars of the activation rate per layer instead.")] = False,
    weights: WeightsOption = None,
    trust_paths: TrustOption = False,
) -> None:
    """Draw which patches stayed active in which layer, or the rate per layer."""
    import torch

    from dyt.cli.pictures import read
    from dyt.measure import patch_maps, routes_of, site_rates
    from dyt.measure.plots import activation_chart, activity_picture, save_figure, writable
    from dyt.train.saved import loaded

    writable(out)
    dynamic = loaded(model, weights, trust_paths)
    shown, inputs = read(dynamic, images, model)
    if chart:
        rates = site_rates(dynamic, torch.split(inputs, 16))
        figure = activation_chart(rates, dynamic.spec.objective.rate, f"active patch tokens, {len(images)} images")
    else:
        maps = torch.cat(
            [patch_maps(routes_of(dynamic, part), (part.shape[2], part.shape[3])) for part in torch.split(inputs, 16)]
        )
        names = [site.name for site in dynamic.sites]
        figure = activity_picture(shown, maps, names, [path.stem for path in images])
    save_figure(figure, out)
    typer.echo(f"{out}: {len(images)} images, {len(dynamic.sites)} layers")
