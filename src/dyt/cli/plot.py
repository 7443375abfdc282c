"""`dyt plot`: what a trained model kept active, or what its rates cost and give, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyt.cli.options import ModelArgument, TrustOption, WeightsOption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dyt.model.dynamic import DynamicModel
    from dyt.train.saved import Saved


def plot(
    model: ModelArgument,
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGES", help="Image files, a row each.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The picture; its ending decides the format. By default activity.png, or curve.png."),
    ] = None,
    chart: Annotated[bool, typer.Option("--chart", help="Bars of the activation rate per layer instead.")] = False,
    curve: Annotated[
        bool, typer.Option("--curve", help="Accuracy against GMACs instead, at each rate that its file has.")
    ] = False,
    data: Annotated[str | None, typer.Option(help="Of --curve, the data; by default its run's.")] = None,
    split: Annotated[str | None, typer.Option(help="Of --curve; by default the run's test split.")] = None,
    weights: WeightsOption = None,
    trust_paths: TrustOption = False,
) -> None:
    """Draw which patches stayed active in which layer, or the rate per layer, or what each rate costs and gives."""
    from dyt.measure.plots import save_figure, writable
    from dyt.train.saved import loaded, open_saved

    if curve and (images or chart):
        raise typer.BadParameter("--curve evaluates a split of --data; leave out image files and --chart")
    if not curve and (data is not None or split is not None):
        raise typer.BadParameter("--data and --split are of --curve; give image files, or --curve")
    if not curve and not images:
        raise typer.BadParameter("give image files, or --curve")
    out = Path("curve.png" if curve else "activity.png") if out is None else out
    writable(out)
    if curve:
        figure, said = _curve(open_saved(model, weights=weights, trust_paths=trust_paths), data, split)
    else:
        figure, said = _activity(loaded(model, weights, trust_paths), model, images or [], chart)
    save_figure(figure, out)
    typer.echo(f"{out}: {said}")


def _activity(dynamic: DynamicModel, model: Path, images: list[Path], chart: bool) -> tuple[Figure, str]:
    import torch

    from dyt.cli.pictures import read
    from dyt.measure import patch_maps, routes_of, site_rates
    from dyt.measure.plots import activation_chart, activity_picture

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
    return figure, f"{len(images)} images, {len(dynamic.sites)} layers"


def _curve(saved: Saved, data: str | None, split: str | None) -> tuple[Figure, str]:
    from dyt.measure.plots import Point, tradeoff
    from dyt.train.evaluation import evaluate
    from dyt.train.progress import Bar

    dynamic, spec = saved.model, saved.spec(data)
    rates, chosen, bar = dynamic.calibrated_table().rates, saved.split(spec, split), Bar(shown=True)
    points: list[Point] = []
    measure, dense, named = "accuracy", None, 0.0
    with bar.task("evaluating", len(rates) * len(chosen)) as task:
        for rate in rates:
            dynamic.budget = rate
            batches = saved.batches(spec, chosen, range(len(chosen)))
            report = evaluate(dynamic, batches, lambda n: bar.advance(task, n), saved.task, spec, saved.names)
            measure, reached = "accuracy", report.accuracy
            if reached is None:
                measure, reached = next(iter(report.metrics.items()))
            if reached is not None:
                apart = not points or rate - named > 0.09  # else the numbers would lie on one another
                named = rate if apart else named
                points.append(Point(f"{rate:g}" if apart else "", report.gmacs, reached, "active share"))
            dense = report.gmacs_dense
    unit, name = saved.task.unit, measure.replace("_", " ")
    figure = tradeoff(points, f"{chosen.name}, {len(chosen)} {unit}s", dense, name)
    return figure, f"{len(points)} rates, {len(chosen)} {unit}s"
