"""Which tokens were active: rates of sites as bars, and the patches of images (paper figs. 5, 6, 8, 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from dyt.errors import DyTError
from dyt.measure.plots.style import ACCENT, INK, PALE, framed

SKIPPED = (0.27, 0.33, 0.42)
"""Colour laid over skipped patches: visible on black and on white."""
VEIL = 0.78
"""How much of a skipped patch that colour covers."""


def activation_chart(rates: Mapping[str, float], asked: float | None = None, title: str = "") -> Figure:
    """The activation rate of every site as bars (paper fig. 5).

    Args:
        rates: in [0, 1], by site name, in forward order.
        asked: the asked mean rate, drawn as a line.
        title: above the chart.

    Raises:
        DyTError: no rates.
    """
    if not rates:
        raise DyTError("activation_chart: no rates were given")
    figure = Figure(figsize=(max(4.0, 0.55 * len(rates) + 1.6), 3.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(range(1, len(rates) + 1), list(rates.values()), color=ACCENT, width=0.72)
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8, color=INK)
    if asked is not None:
        axes.axhline(asked, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(f"asked {asked:g}", (1, asked), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8, color=INK)  # fmt: skip
    axes.set(xticks=range(1, len(rates) + 1), ylim=(0, 1.08), yticks=[0, 0.25, 0.5, 0.75, 1])
    labels = layer_labels(list(rates))
    axes.set_xticklabels(labels, fontsize=8, rotation=90 if max(map(len, labels)) > 3 else 0)
    axes.set_xlabel("layer", color=INK)
    axes.set_ylabel("active patch tokens", color=INK)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    framed(axes)
    return figure


ALONE = 5
"""Panels in a line of the picture of one image."""


def activity_picture(
    images: Tensor, maps: Tensor, sites: Sequence[str], captions: Sequence[str] = (), title: str = ""
) -> Figure:
    """Which patches stayed active in which layer (paper figs. 6, 8, 9): skipped patches are veiled.

    A line for each image; of a single one the layers are large, over several lines.

    Args:
        images: (B, C, H, W) in [0, 1], drawn as `as_rgb` has them.
        maps: (B, S, h, w) bool, as `patch_maps` gives them.
        sites: S names.
        captions: one per image, at its left; none by default.
        title: above the picture.

    Raises:
        DyTError: sizes that do not fit each other.
    """
    count, layers = maps.shape[:2]
    if len(images) != count or len(sites) != layers or (captions and len(captions) != count) or not count:
        raise DyTError(
            f"activity_picture: {len(images)} images, maps of {count} images and {layers} sites, {len(sites)} site "
            f"names, {len(captions)} captions; they must fit each other"
        )
    columns = layers + 1 if count > 1 else min(layers + 1, ALONE)
    lines = -(-count * (layers + 1) // columns)
    cell = max(0.72, min(1.25, 13.0 / columns)) if count > 1 else 13.0 / ALONE
    height = cell * images.shape[2] / images.shape[3] + (0.06 if count > 1 else 0.4)
    figure = Figure(
        figsize=(
            cell * columns + (1.0 if captions else 0.2),
            height * lines + (0.35 if title else 0) + 0.15 + 0.35 * (count > 1),
        ),
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(lines, columns, squeeze=False)
    rates = maps.flatten(2).float().mean((0, 2))
    headings = ["image", *(f"{label}\n{rate:.0%}" for label, rate in zip(layer_labels(sites), rates, strict=True))]
    for axes in grid.flat:
        axes.axis("off")
    for row in range(count):
        image = as_rgb(images[row])
        pictures = [image, *(veiled(image, maps[row, layer]) for layer in range(layers))]
        for column, picture in enumerate(pictures):
            axes = grid.flat[row * columns + column]
            axes.axis("on")
            axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=PALE, linewidth=0.6)
            if row == 0:
                axes.set_title(headings[column], fontsize=8, color=INK, pad=4)
        if captions:
            grid.flat[row * columns].set_ylabel(
                captions[row], rotation=0, ha="right", va="center", fontsize=8, color=INK, labelpad=6
            )
    if title:
        figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def as_rgb(images: Tensor) -> Tensor:
    """(..., C, H, W) -> (..., 3, H, W) to look at: a single channel as grey, of more than three the first three.

    Two channels are drawn as grey, the first of them.
    """
    first = images[..., :3, :, :] if images.shape[-3] > 2 else images[..., :1, :, :]
    return first.expand(*first.shape[:-3], 3, *first.shape[-2:])


def veiled(image: Tensor, active: Tensor) -> Tensor:
    """An image (3, H, W) in [0, 1] with the patches where `active` (h, w) bool is False covered by a veil."""
    shown = F.interpolate(active[None, None].float(), size=image.shape[1:], mode="nearest-exact")[0]
    veil = image * (1 - VEIL) + VEIL * torch.tensor(SKIPPED).view(3, 1, 1)
    return torch.where(shown > 0.5, image, veil)


def layer_labels(sites: Sequence[str]) -> list[str]:
    """`blocks.3.mlp` -> `4`, `layers.2.blocks.3.mlp` -> `3.4`; `4 mlp` where there are several kinds; else the name."""
    parts = [(*site.split("."),) for site in sites]
    numbers = [[str(int(part) + 1) for part in p[:-1] if part.isdecimal()] for p in parts]
    kinds = {p[-1] for p in parts}
    if not all(numbers) or not all(p[-2].isdecimal() for p in parts):
        return list(sites)
    return [".".join(n) if len(kinds) == 1 else f"{'.'.join(n)} {p[-1]}" for n, p in zip(numbers, parts, strict=True)]
