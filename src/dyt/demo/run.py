"""`run_demo`: fine-tunes three ways side by side through the library's own path, and shows what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from dyt.demo.digits import write_digits
from dyt.demo.runs import run_specs, shipped
from dyt.io.checkpoint import load
from dyt.measure import Comparison, paired, patch_maps, routes_of
from dyt.measure.costs import dense_macs
from dyt.measure.plots import activity_picture, save_figure
from dyt.model.dynamic import DynamicModel
from dyt.tasks.data import DataSpec, open_data
from dyt.tasks.loading import transform
from dyt.tasks.preparation import Preparation
from dyt.train.loop import fit
from dyt.train.result import Result
from dyt.train.spec import RunSpec

EPOCHS = 10
SPEED_BATCH = {True: 256, False: 16}
"""Images per timed call, for the shipped backbone and for one of the hub."""
PICTURED = 8
PICTURE, TABLE_UNIT = "dyt_demo.png", 1e6


@dataclass(frozen=True)
class Demo:
    """The results of the demo.

    Attributes:
        results: of each method, as its run directory has them.
        dense: multiply-accumulates per image of the plain backbone with its head.
        speed: paired timings of the methods' models on one batch of `batch` test images.
        batch: images per timed call.
        picture: the file that shows which patches stayed active.
    """

    results: Mapping[str, Result]
    dense: int
    speed: Comparison
    batch: int
    picture: Path

    def table(self) -> Table:
        """The methods side by side."""
        table = Table(
            title=f"{next(iter(self.results.values())).test.images} test images",
            caption="trained: parameters; active: patch tokens; dense, executed: 1e6 multiply-accumulates per image",
        )
        table.add_column("", no_wrap=True)
        for heading in ("accuracy", "trained", "active", "dense", "executed", "images/s"):
            table.add_column(heading, justify="right", no_wrap=True)
        for method, result in self.results.items():
            table.add_row(
                method,
                f"{result.test.accuracy:.1%}",
                f"{result.trainable:,}",
                f"{result.test.active_rate:.0%}",
                f"{self.dense / TABLE_UNIT:,.1f}",
                f"{result.test.gmacs * 1e9 / TABLE_UNIT:,.1f}",
                f"{self.batch / self.speed.best(method):,.0f}",
            )
        return table


def run_demo(
    out: Path,
    backbone: str | None = None,
    data: Path | None = None,
    epochs: int | None = None,
    progress: bool = True,
    resume: bool = True,
    say: Callable[[str], Any] = lambda line: None,
) -> Demo:
    """Fine-tunes a linear probe, a static adapter and DyT at r = 0.5, measures all three, draws DyT's routes.

    Args:
        out: directory for the runs, the digits and the picture; made when it is not there.
        backbone: a timm name with weights on the hub; None takes the small one that ships with the package.
        data: class folders, VTAB-1K lists or a saved HF data set; None takes the digits that ship with the package.
        epochs: of each run; 10 by default.
        progress: show bars, on standard error.
        resume: go on with what an interrupted demo left in `out`; False starts anew.
        say: called with each line that says what happens.

    Raises:
        WeightsError: the backbone's weights cannot be had.
        DataError, RunError, Interrupted: as `dyt.train.fit`.
    """
    out.mkdir(parents=True, exist_ok=True)
    chosen = shipped() if backbone is None else {"name": backbone}
    root = write_digits(out / "digits") if data is None else data
    runs = run_specs(chosen, root, EPOCHS if epochs is None else epochs)
    results, models = {}, {}
    for number, (method, run) in enumerate(runs.items(), 1):
        say(f"{number}/{len(runs)} {method}")
        place = out / method.replace(" ", "_").lower()
        results[method] = fit(run, place, progress=progress, resume=resume)
        models[method] = load(place / "model.safetensors", weights=run.model.backbone.weights)
        say(f"    accuracy {results[method].test.accuracy:.1%}")
    say("measuring images per second, in turns")
    images, captions = _examples(models["DyT"], runs["DyT"], SPEED_BATCH[backbone is None])
    speed = _speed(models, images)
    picture = out / PICTURE
    _draw(models["DyT"], runs["DyT"], images, captions, picture)
    plain = dense_macs(models["linear probe"], images[:1])  # a linear probe is the plain backbone
    return Demo(results, plain, speed, len(images), picture)


def _examples(model: DynamicModel, run: RunSpec, count: int) -> tuple[Tensor, list[str]]:
    """Test images, normalised, the classes in turn, and the classes' names."""
    assert isinstance(run.data, DataSpec)  # the digits are images
    opened = open_data(run.data)
    split, prepare = opened.test, transform(run.data, Preparation.of(model.backbone, run.data.size), training=False)
    seen: dict[int, int] = {}
    turn = []
    for position, label in enumerate(split.labels):
        seen[label] = seen.get(label, 0) + 1
        turn.append((seen[label], label, position))
    positions = [position for _, _, position in sorted(turn)][:count]
    preparation = Preparation.of(model.backbone, run.data.size)
    images = torch.stack([prepare(split.read(i)) for i in positions])
    return preparation.normalized(images), [opened.classes[split.labels[i]] for i in positions]


def _speed(models: Mapping[str, DynamicModel], images: Tensor) -> Comparison:
    with torch.inference_mode():
        return paired({name: lambda m=model: m(images) for name, model in models.items()}, pairs=11, warmup=2)  # type: ignore[misc]


def _draw(model: DynamicModel, run: RunSpec, images: Tensor, captions: list[str], path: Path) -> None:
    assert isinstance(run.data, DataSpec)
    preparation = Preparation.of(model.backbone, run.data.size)
    images, captions = images[:PICTURED], captions[:PICTURED]
    maps = patch_maps(routes_of(model, images), (images.shape[2], images.shape[3]))
    with torch.inference_mode():
        answers = model(images).argmax(1).tolist()
    assert isinstance(run.data, DataSpec)
    classes = open_data(run.data).classes
    named = [
        f"{truth}" if truth == classes[a] else f"{truth} (said {classes[a]})"
        for truth, a in zip(captions, answers, strict=True)
    ]
    title = "DyT: which patches went through the MLP of each layer (veiled patches skipped it)"
    figure = activity_picture(preparation.shown(images), maps, [site.name for site in model.sites], named, title)
    save_figure(figure, path)
