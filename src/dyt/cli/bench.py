"""`dyt bench`: a paired comparison with the dense timm model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyt.cli.options import Dtype, SetOption, chosen

if TYPE_CHECKING:
    from torch import Tensor

    from dyt.measure.bench import Bench
    from dyt.model import DynamicModel

WARMUP = 2


def bench(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="A preset, a spec file, or a trained model.safetensors.")
    ] = "dyt",
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="For a trained model: images to route.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="A timm name, in place of the spec's.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call; given images are repeated to fill it.")] = 8,
    rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Active share under forced masks.")] = 0.5,
    image_size: Annotated[int | None, typer.Option(min=1, help="Pixels of a side; the backbone's by default.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and images.")] = Dtype.float32,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    optimize: Annotated[bool, typer.Option("--optimize", help="Time what dyt.optimize makes of the model.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; torch's own choice by default.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Timed rounds; 6 or more for a 95 % interval.")] = 11,
    assignments: SetOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every timing to this file.")] = None,
) -> None:
    """Time the dynamic model against the dense timm model, in turns, at the asked activity.

    Forced random masks on random weights; a trained model.safetensors with images runs its own routes instead. With
    --optimize it is first said what was rewritten.
    """
    import torch

    from dyt.cli.progress import rounds
    from dyt.measure.bench import against_dense

    if threads is not None:
        torch.set_num_threads(threads)
    trained = Path(spec).suffix == ".safetensors"
    if trained:
        if backbone or image_size or assignments:
            raise typer.BadParameter("a trained model has its backbone, size and spec; leave out what changes them")
        model, inputs = _trained(Path(spec), images or [], batch)
    else:
        if images:
            raise typer.BadParameter("images are routed by a trained model; give its .safetensors file as SPEC")
        changes = [f"backbone.name={backbone}"] if backbone else []
        changes += [f"backbone.args.img_size={image_size}"] if image_size else []
        model, inputs = _untrained(spec, [*changes, *(assignments or [])], batch)
    if optimize:
        model = optimized(model)
    with rounds("timing", pairs + WARMUP) as progress:
        found = against_dense(
            model.to(device), inputs.to(device), None if trained else rate, dtype.value, pairs, WARMUP, progress
        )
    if optimize:
        found = replace(found, conditions=found.conditions | {"blocks": "optimized"})
    for line in report(found):
        typer.echo(line)
    if json_file is not None:
        json_file.write_text(json.dumps(found.data(), indent=2) + "\n", encoding="utf-8")


def optimized(model: DynamicModel) -> DynamicModel:
    """What `dyt.optimize` makes of the model, and it is said what was done to which block."""
    import dyt

    made = dyt.optimize(model)
    typer.echo(str(made.report))
    return made


def report(found: Bench) -> list[str]:
    """What was measured, and under which conditions, in lines."""
    from dyt.measure.bench import DENSE, DYNAMIC

    speedup, (height, width) = found.speedup, found.size
    return [
        f"{found.backbone}, batch {found.batch}, {height} x {width}, {found.masks}, {found.active_rate:.1%} active",
        ", ".join(f"{name} {value}" for name, value in found.conditions.items()),
        f"speed-up over {DENSE}: {speedup.median:.3f}, {speedup.coverage:.0%} interval {speedup.low:.3f} to "
        f"{speedup.high:.3f} (median of {speedup.pairs} paired ratios)",
        f"GMACs per image: {DENSE} {found.macs_dense / 1e9:.3f}, executed {found.macs_executed / 1e9:.3f}, "
        f"ratio {found.macs_dense / found.macs_executed:.3f}",
        f"images/s (fastest call): {DENSE} {found.images_per_second(DENSE):.2f}, "
        f"{DYNAMIC} {found.images_per_second(DYNAMIC):.2f}",
    ]


def _trained(path: Path, images: list[Path], batch: int) -> tuple[DynamicModel, Tensor]:
    import dyt
    from dyt.cli.pictures import read

    if not images:
        raise typer.BadParameter("a trained model runs its own routes: give images after its file")
    model = dyt.load(path)
    _, inputs = read(model, images, path)
    return model, inputs.repeat(-(-batch // len(inputs)), 1, 1, 1)[:batch]


def _untrained(spec: str, changes: list[str], batch: int) -> tuple[DynamicModel, Tensor]:
    import torch

    import dyt
    from dyt.backbone import input_size
    from dyt.measure.costs import without_weights

    torch.manual_seed(0)
    model = dyt.build(without_weights(chosen(spec, changes)))
    return model, torch.randn(batch, 3, *input_size(model.backbone))
