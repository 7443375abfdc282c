"""`dyt predict`: the classes of images, and how much of the model each needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dyt.cli.options import WeightsOption


def predict(
    model: Annotated[Path, typer.Argument(help="A model.safetensors.", metavar="MODEL")],
    images: Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGES...")],
    top: Annotated[int, typer.Option(help="So many classes for each image.", min=1)] = 1,
    classes: Annotated[
        Path | None, typer.Option(help="Class names, one per line; by default beside the model.")
    ] = None,
    weights: WeightsOption = None,
    out: Annotated[
        Path, typer.Option(help="Directory of the pictures, for tasks that draw their answers.", file_okay=False)
    ] = Path("predictions"),
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each image.")] = False,
) -> None:
    """Classify images with a saved model; or, of another task, tell and draw what it finds in each file."""
    import torch

    from dyt.model import record
    from dyt.route import activation_rate
    from dyt.tasks.layouts import files
    from dyt.train.saved import open_saved

    saved = open_saved(model, classes, weights)
    top = min(top, saved.model.num_classes)
    spec, split = (
        saved.spec(saved.data.root if saved.data else ".", workers=0),
        files("images", images, [0] * len(images)),
    )
    if saved.task.draws:
        for line in saved.task.draw(saved.model, spec, images, saved.names, out):
            typer.echo(line)
        typer.echo(f"class names: {saved.classes_from}; pictures: {out}", err=True)
        return
    if not as_json:
        typer.echo(f"class names: {saved.classes_from}", err=True)
    for i, (batch, _) in enumerate(saved.batches(spec, split, range(len(split)), size=1)):
        with torch.no_grad(), record(saved.model) as routes:
            chances = saved.model(batch).float().softmax(-1)[0]
        active, patches = activation_rate(routes)
        best = [(saved.names[k], float(chances[k])) for k in chances.topk(top).indices.tolist()]
        rate = float(active / patches)
        if as_json:
            found = [{"class": name, "probability": chance} for name, chance in best]
            typer.echo(json.dumps({"image": str(images[i]), "top": found, "active_rate": rate}))
        else:
            named = "  ".join(f"{name} {chance:.1%}" for name, chance in best)
            typer.echo(f"{images[i]}: {named}  (active {rate:.2f})")
