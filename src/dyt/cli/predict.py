"""`dyt predict`: the classes of images, or what a task finds in them, and how much of the model each needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dyt.cli.options import ModelArgument, TrustOption, WeightsOption


def predict(
    model: ModelArgument,
    images: Annotated[list[Path], typer.Argument(help="Image files; clips for video.", metavar="IMAGES")],
    top: Annotated[int, typer.Option(help="So many classes for each image.", min=1)] = 1,
    classes: Annotated[
        Path | None, typer.Option(help="Class names, one per line; by default beside the model.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Of models of several labels: those from this probability on.", min=0.0, max=1.0)
    ] = 0.5,
    weights: WeightsOption = None,
    trust_paths: TrustOption = False,
    out: Annotated[
        Path, typer.Option(help="Directory of the pictures, for tasks that draw their answers.", file_okay=False)
    ] = Path("predictions"),
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each file.")] = False,
) -> None:
    """Classify images with a saved model; or, of another task, tell and draw what it finds in each file."""
    import torch

    from dyt.core.route import activation_rate
    from dyt.errors import UnsupportedError
    from dyt.model.dynamic import record
    from dyt.tasks.layouts import files
    from dyt.train.saved import open_saved

    saved = open_saved(model, classes, weights, trust_paths)
    if not saved.task.predicts:
        raise UnsupportedError(
            f"'{model}' gives tokens and no answer that could be told; use its outputs (dyt.load), or dyt eval"
        )
    top = min(top, saved.model.num_classes)
    spec, split = (
        saved.spec((saved.data and saved.data.root) or ".", workers=0),
        files("images", images, [0] * len(images)),
    )
    if saved.task.draws:
        for answer in saved.task.draw(saved.model, spec, images, saved.names, out, top):
            typer.echo(json.dumps(answer.data) if as_json else answer.line)
        if not as_json:
            typer.echo(f"class names: {saved.classes_from}; pictures: {out}", err=True)
        return
    if not as_json:
        typer.echo(f"class names: {saved.classes_from}", err=True)
    numbers = getattr(saved.model.head, "trained_as", None) == "mse"
    several = getattr(saved.data, "labels", "one") == "several"
    for i, (batch, _) in enumerate(saved.batches(spec, split, range(len(split)), size=1)):
        with torch.no_grad(), record(saved.model) as routes:
            chances = saved.model.head.chances(saved.model(batch))[0]
        active, patches = activation_rate(routes)
        count = int((chances >= threshold).sum()) if several else top
        if numbers:
            given = [round(value, 6) for value in chances.tolist()]
            row = {"image": str(images[i]), "values": given, "active_rate": float(active / patches)}
            typer.echo(json.dumps(row) if as_json else f"{images[i]}: {', '.join(f'{value:g}' for value in given)}")
            continue
        best = [(saved.names[k], float(chances[k])) for k in chances.topk(count).indices.tolist()]
        rate = float(active / patches)
        if as_json:
            found = [{"class": name, "probability": chance} for name, chance in best]
            key = "labels" if several else "top"
            typer.echo(json.dumps({"image": str(images[i]), key: found, "active_rate": rate}))
        else:
            named = "  ".join(f"{name} {chance:.1%}" for name, chance in best) or f"no label from {threshold:g} on"
            typer.echo(f"{images[i]}: {named}  (active {rate:.2f})")
