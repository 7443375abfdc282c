"""Accuracy, time and speed against what is computed (paper fig. 7, and the benchmarks)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dyt.errors import DyTError
from dyt.measure.latency import Interval
from dyt.measure.plots.style import INK, PALE, framed


@dataclass(frozen=True)
class Point:
    """One model in a trade-off: `gmacs` per image, `accuracy` in [0, 1], and a `series` whose points are joined."""

    label: str
    gmacs: float
    accuracy: float
    series: str = ""


def tradeoff(points: Sequence[Point], title: str = "", dense: float | None = None, measure: str = "accuracy") -> Figure:
    """Accuracy against executed GMACs per image (paper fig. 7); points of one series are joined in order of cost.

    Args:
        points: the models, or one model at several rates.
        title: above the picture.
        dense: GMACs of the dense model, marked by a line; None for no line.
        measure: what `accuracy` of the points is.

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
    if dense is not None:
        axes.axvline(dense, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate("dense", (dense, 0.02), xycoords=("data", "axes fraction"), xytext=(-4, 0), ha="right",
                      textcoords="offset points", fontsize=8, color=INK)  # fmt: skip
    axes.margins(0.15)
    axes.set_xlabel("GMACs per image, executed", color=INK)
    axes.set_ylabel(f"{measure} (%)", color=INK)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(color=PALE, linewidth=0.5)
    if any(point.series for point in points):
        axes.legend(frameon=False, fontsize=8)
    framed(axes)
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
        framed(axes)
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
        framed(axes)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * columns,
                  frameon=False, fontsize=8)  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return figure
