"""The paper's figures for any model: matplotlib `Figure`s, returned; the caller saves them. No global pyplot state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor
from torch.nn import functional as F

from dyt.errors import DyTError
from dyt.measure.latency import Interval

INK, ACCENT, PALE = "#26323f", "#1f77b4", "#c9d3dc"
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
    _plain(axes)
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


@dataclass(frozen=True)
class Point:
    """One model in a trade-off: `gmacs` per image, `accuracy` in [0, 1], and a `series` whose points are joined."""

    label: str
    gmacs: float
    accuracy: float
    series: str = ""


def tradeoff(points: Sequence[Point], title: str = "") -> Figure:
    """Accuracy against executed GMACs per image (paper fig. 7); points of one series are joined in order of cost.

    Raises:
        DyTError: no points.
    """
    if not points:
        raise DyTError("tradeoff: no points were given")
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(point.series for point in points):
        line = sorted((p for p in points if p.series == name), key=lambda p: p.gmacs)
        axes.plot([p.gmacs for p in line], [100 * p.accuracy for p in line], "o-" if name else "o", label=name or None,
                  markersize=5, linewidth=1.2)  # fmt: skip
        for point in line:
            axes.annotate(point.label, (point.gmacs, 100 * point.accuracy), xytext=(5, -10),
                          textcoords="offset points", fontsize=8, color=INK)  # fmt: skip
    axes.margins(0.15)
    axes.set_xlabel("GMACs per image, executed", color=INK)
    axes.set_ylabel("accuracy (%)", color=INK)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(color=PALE, linewidth=0.5)
    if any(point.series for point in points):
        axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return figure


@dataclass(frozen=True)
class Timed:
    """One model in `time_against_macs`: multiply-accumulates and time, both as shares of the dense model's."""

    label: str
    macs: float
    time: float
    low: float
    high: float


def time_against_macs(panels: Mapping[str, Sequence[Timed]], title: str = "") -> Figure:
    """Time against multiply-accumulates, both over dense timm's, with the line on which saved work is saved time.

    Args:
        panels: by heading, the models that ran in turns; one panel each. Bars are the intervals of the time.
        title: above the picture.

    Raises:
        DyTError: nothing to draw.
    """
    if not panels or not all(panels.values()):
        raise DyTError("time_against_macs: no points were given")
    names = list(dict.fromkeys(point.label for points in panels.values() for point in points))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.3 * columns, 3.5 * rows + 0.35 * -(-len(names) // (2 * columns))), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    style = {name: (f"C{i % 10}", "os^Dv"[i // 2 % 5]) for i, name in enumerate(names)}
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (heading, points) in zip(grid.flat, panels.items(), strict=False):
        edge = 1.08 * max(1.0, *(max(p.macs, p.time) for p in points))
        axes.plot([0, edge], [0, edge], color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate("ideal", (0.56, 0.56), xytext=(4, -12), textcoords="offset points", fontsize=8, color=INK)
        axes.axhline(1.0, color=PALE, linewidth=1, zorder=0)
        for p in points:
            colour, marker = style[p.label]
            bars = [[max(p.time - p.low, 0.0)], [max(p.high - p.time, 0.0)]]
            axes.errorbar(p.macs, p.time, yerr=bars, color=colour, marker=marker, markersize=5, linewidth=1,
                          linestyle="none", label=p.label)  # fmt: skip
        axes.set(xlim=(0.5, edge), ylim=(0.5, edge))
        if min(min(p.macs, p.low) for p in points) < 0.5:
            axes.set(xlim=(0, edge), ylim=(0, edge))
        axes.set_title(heading, loc="left", fontsize=9, color=INK)
        axes.set_xlabel("multiply-accumulates / dense timm's", color=INK, fontsize=9)
        axes.set_ylabel("time / dense timm's", color=INK, fontsize=9)
        _plain(axes)
    known: dict[str, Artist] = {}
    for axes in grid.flat[: len(panels)]:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(
        known.values(), known.keys(), loc="outside lower center", ncols=2 * columns, frameon=False, fontsize=8
    )
    if title:
        figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def speed_over_activity(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Interval]]]],
    ideal: Mapping[str, Sequence[tuple[float, float]]],
    title: str = "",
) -> Figure:
    """Speed-up over dense timm against the active share, with the line of a model that turns all saved work into time.

    Args:
        panels: by heading, for each model its (active share, speed-up with interval).
        ideal: by heading, (active share, dense multiply-accumulates over executed ones).
        title: above the picture.

    Raises:
        DyTError: nothing to draw.
    """
    if not panels:
        raise DyTError("speed_over_activity: no points were given")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.3 * columns, 3.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (heading, models) in zip(grid.flat, panels.items(), strict=False):
        axes.axhline(1.0, color=PALE, linewidth=1, zorder=0)
        axes.plot(*zip(*sorted(ideal[heading]), strict=True), color=INK, linewidth=1, linestyle=(0, (4, 3)),
                  label="work saved, all of it", zorder=0)  # fmt: skip
        for i, (name, points) in enumerate(models.items()):
            shares, found = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            bars = [[f.median - f.low for f in found], [f.high - f.median for f in found]]
            axes.errorbar(shares, [f.median for f in found], yerr=bars, color=f"C{i}", marker="os^"[i % 3],
                          markersize=4, linewidth=1, capsize=2, label=name)  # fmt: skip
        axes.set_title(heading, loc="left", fontsize=9, color=INK)
        axes.set_xlabel("active patch tokens", color=INK, fontsize=9)
        axes.set_ylabel("speed-up over dense timm", color=INK, fontsize=9)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylim(bottom=0)
        _plain(axes)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * columns,
                  frameon=False, fontsize=8)  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def layer_labels(sites: Sequence[str]) -> list[str]:
    """`blocks.3.mlp` -> `4`, `layers.2.blocks.3.mlp` -> `3.4`; `4 mlp` where there are several kinds; else the name."""
    parts = [(*site.split("."),) for site in sites]
    numbers = [[str(int(part) + 1) for part in p[:-1] if part.isdecimal()] for p in parts]
    kinds = {p[-1] for p in parts}
    if not all(numbers) or not all(p[-2].isdecimal() for p in parts):
        return list(sites)
    return [".".join(n) if len(kinds) == 1 else f"{'.'.join(n)} {p[-1]}" for n, p in zip(numbers, parts, strict=True)]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=INK, length=3, labelsize=8)


def writable(path: Path) -> None:
    """Refuses, before anything is computed, a file that a figure cannot be saved to.

    Raises:
        DyTError: no such directory, or an ending that matplotlib does not write.
    """
    allowed = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix[1:].lower() not in allowed:
        raise DyTError(f"cannot draw into '{path}': allowed endings: {', '.join(allowed)}")
    if not path.parent.is_dir():
        raise DyTError(f"cannot draw into '{path}': no directory '{path.parent}'")
