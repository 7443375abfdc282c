"""`dyt export`: a trained model as a file that runs without this library, and how far it is from the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyt.cli.options import Dtype, ModelArgument, TrustOption, WeightsOption

if TYPE_CHECKING:
    from torch import Tensor

    from dyt.model.dynamic import DynamicModel

COMPARED = 5
"""At least so many images are compared, in one batch; the trace has another number."""


def export(
    model: ModelArgument,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGES", help="To compare on; random noise by default.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="Write ONNX here; needs pip install 'dyt\\[export]'.")] = None,
    pt2: Annotated[Path | None, typer.Option(help="Write torch.export's format here.")] = None,
    timm: Annotated[
        Path | None, typer.Option(help="Write a plain timm model's .safetensors here, if nothing is skipped or added.")
    ] = None,
    peft: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write LoRA as a folder of Hugging Face's PEFT here.")
    ] = None,
    executor: Annotated[
        str, typer.Option(help="capacity, masked, complete, or sparse where only MLPs are dispatched.")
    ] = "capacity",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Set the capacity from the images first, with a margin of 5 %.")
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and images; compared with float32.")] = Dtype.float32,
    weights: WeightsOption = None,
    trust_paths: TrustOption = False,
) -> None:
    """Export a saved model with a free batch size, and compare what was written with the model."""
    import copy

    import torch

    import dyt
    from dyt.io.export import difference, to_onnx, to_pt2, to_timm
    from dyt.train.saved import loaded

    if not any((onnx, pt2, timm, peft)):
        raise dyt.DyTError("nothing to write: give --onnx FILE, --pt2 FILE, --timm FILE or --peft FOLDER, or several")
    if calibrate and not images:
        raise dyt.DyTError("--calibrate needs images: give files after the model")
    if onnx is not None and dtype is not Dtype.float32:
        raise dyt.DyTError("--onnx is written in float32, of which onnxruntime has every operator; use --pt2")
    if peft is not None and dtype is not Dtype.float32:
        raise dyt.DyTError("--peft is written as the model has it; PEFT converts it when it loads; leave --dtype out")
    dynamic = loaded(model, weights, trust_paths)
    inputs, what = _inputs(dynamic, images or [], model)
    if calibrate:
        shares = dyt.calibrate_capacity(dynamic, torch.split(inputs, 16))
        typer.echo(f"capacity: room for {sum(shares) / len(shares):.1%} of the tokens, from {len(inputs)} images")
    kind = torch.float32 if dtype is Dtype.float32 else torch.bfloat16
    converted = dynamic if kind == torch.float32 else copy.deepcopy(dynamic).to(kind)
    repeats = -(-COMPARED // len(inputs))
    compared = inputs.repeat(repeats, *[1] * (inputs.ndim - 1))
    for path, write in ((onnx, to_onnx), (pt2, to_pt2)):
        if path is not None:
            found = difference(dynamic, write(converted, path, inputs.to(kind), executor), compared, kind)
            typer.echo(f"{path}: {found}; a batch of {len(compared)} ({what}), executor {executor}, {dtype.value}")
    if timm is not None:
        found = difference(dynamic, to_timm(converted, timm), compared, kind)
        typer.echo(f"{timm}: {found}; a batch of {len(compared)} ({what}), merged, {dtype.value}")
    if peft is not None:
        dyt.to_peft(dynamic, peft)
        typer.echo(f"{peft}: PeftModel.from_pretrained(timm_model, '{peft}') loads it")


def _inputs(model: DynamicModel, paths: list[Path], trained: Path) -> tuple[Tensor, str]:
    """(B, 3, H, W) float32, and what it is."""
    import torch

    from dyt.assembly.backbone import input_size
    from dyt.cli.pictures import read

    if paths:
        return read(model, paths, trained)[1], f"{len(paths)} images given"
    shape = model.head.input_shape(input_size(model.backbone))
    noise = torch.randn(COMPARED, *shape, generator=torch.Generator().manual_seed(0))
    return noise, "random noise"
