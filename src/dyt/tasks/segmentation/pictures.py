"""Predicted classes drawn over the image, with a legend, and what was active in it, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dyt.core.route import activation_rate
from dyt.measure.activity import patch_maps
from dyt.measure.plots import activity_picture, as_rgb, save_figure
from dyt.model.dynamic import DynamicModel, record
from dyt.tasks.base import Answer, stems
from dyt.tasks.images import save_image
from dyt.tasks.preparation import Preparation
from dyt.tasks.segmentation.examples import Pairs
from dyt.tasks.segmentation.spec import SegmentationSpec
from dyt.tasks.segmentation.windows import over

STRENGTH = 0.55
"""How much of a pixel its class's colour covers."""


def palette(classes: int) -> Tensor:
    """(K, 3) colours in [0, 1]; neighbours in number are far apart in hue."""
    if classes <= 20:
        return torch.tensor([colormaps["tab20"](i * 2 % 20 + i // 10 % 2)[:3] for i in range(classes)])
    return torch.tensor([colormaps["hsv"](i * 0.618034 % 1.0)[:3] for i in range(classes)])


def mask_picture(image: Tensor, labels: Tensor, classes: Sequence[str]) -> Figure:
    """Labels (H, W) over an image (C, H, W) in [0, 1], at its size or larger, and a legend of its classes."""
    colours = palette(len(classes))
    shown = as_rgb(image) * (1 - STRENGTH) + colours[labels].permute(2, 0, 1) * STRENGTH
    shares = torch.bincount(labels.flatten(), minlength=len(classes)) / labels.numel()
    height, width = labels.shape
    scale = max(640 / width, 1.0) / 100
    figure = Figure(figsize=(width * scale + 2.2, max(height * scale, 2.0)), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shown.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    axes.set_axis_off()
    present = [k for k in shares.argsort(descending=True).tolist() if shares[k] > 0]
    handles = [Patch(color=tuple(colours[k].tolist()), label=f"{classes[k]}  {float(shares[k]):.1%}") for k in present]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return figure


@torch.no_grad()
def activity(model: DynamicModel, images: Tensor, spec: SegmentationSpec) -> Tensor:
    """(B, S, H, W) bool: at each site, whether a pixel's patch was active, in most of the windows that saw it."""

    def run(windows: Tensor) -> Tensor:
        with record(model) as routes:
            model(windows)
        size = (int(windows.shape[2]), int(windows.shape[3]))
        return F.interpolate(patch_maps(routes, size).float(), size, mode="nearest-exact")

    return over(model, images.detach(), spec, lambda windows: run(windows).to(images.device)).cpu() >= 0.5


@torch.no_grad()
def draw(model: DynamicModel, spec: SegmentationSpec, images: Pairs, classes: Sequence[str], out: Path) -> list[Answer]:
    """Three pictures for each image, in the directory `out`, which is made; an answer for each."""
    out.mkdir(parents=True, exist_ok=True)
    device, said = next(model.parameters()).device, []
    preparation = Preparation.of(model.backbone, spec.size)
    names = [site.name for site in model.sites]
    for position, (path, stem) in enumerate(zip(images.split.paths, stems(images.split.paths), strict=True)):
        pixels = images.example(position, 0)[0][None]
        inputs = preparation.normalized(pixels.to(device))
        with record(model) as routes:
            labels = over(model, inputs, spec, model).argmax(1)[0].cpu()
        shown = pixels[0].float() / 255
        file, plain, beside = (out / f"{stem}_{what}.png" for what in ("mask", "labels", "activity"))
        save_figure(mask_picture(shown, labels, classes), file, None)
        numbers = labels.numpy().astype(np.uint8 if len(classes) <= 256 else np.uint16)
        save_image(Image.fromarray(numbers), plain)
        shares = torch.bincount(labels.flatten(), minlength=len(classes)).double() / labels.numel()
        line = f"{path}: {file}"
        data: dict[str, Any] = {"image": str(path), "labels": str(plain), "picture": str(file)}
        of_pixels = {name: share for name, share in zip(classes, shares.tolist(), strict=True) if share}
        if names:
            save_figure(activity_picture(shown[None], activity(model, inputs, spec), names, [path.stem]), beside)
            active, patches = activation_rate(routes)
            rate = float(active / patches)
            line += f"  {beside}  (active {rate:.2f})"
            data["active_rate"] = rate
        said.append(Answer(line, {**data, "shares": of_pixels}))
    return said
