"""The table and the picture of a task, from the lines of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dyt.measure.plots.style import INK, PALE, framed
from dyt.sweeps.statistics import Spread
from pareto_parts.methods import METHODS


@dataclass(frozen=True)
class Row:
    """A contender on a task.

    Attributes:
        accuracy: over seeds, a fraction.
        speeds: by batch, how many times as fast as the dense model: median, low, high.
        rewritten: by how many of its blocks `dyt.optimize` made faster; None where it was not timed.
    """

    method: str
    label: str
    accuracy: Spread
    active_rate: float
    gmacs: float
    gmacs_dense: float
    speeds: Mapping[int, tuple[float, float, float]]
    rewritten: str | None


def rows(lines: Mapping[str, Any], task: str) -> list[Row]:
    """Of a task, by method, each in the order in which its models were evaluated.

    Args:
        lines: results by key.
    """
    seeds: dict[tuple[str, str], list[Any]] = {}
    for key, result in lines.items():
        if key.startswith(f"eval: {task}: "):
            seeds.setdefault((result["method"], result["label"]), []).append(result)
    speeds: dict[tuple[str, str], dict[int, tuple[float, float, float]]] = {}
    rewritten: dict[tuple[str, str], str] = {}
    for key, result in lines.items():
        if key.startswith(f"time: {task}: "):
            for one in result["rows"]:
                name = (one["method"], one["label"])
                speeds.setdefault(name, {})[result["batch"]] = (one["median"], one["low"], one["high"])
                rewritten[name] = one["rewritten"]
    return [
        Row(
            *name,
            Spread.of([each["accuracy"] for each in found]),
            *(sum(each[what] for each in found) / len(found) for what in ("active_rate", "gmacs", "gmacs_dense")),
            speeds.get(name, {}),
            rewritten.get(name),
        )
        for name, found in sorted(seeds.items(), key=lambda each: list(METHODS.values()).index(each[0][0]))
    ]


def beaten(row: Row, all_rows: Sequence[Row]) -> bool:
    """Whether another costs no more GMACs and is no less accurate, and better in one of the two."""
    return any(
        other.gmacs <= row.gmacs
        and other.accuracy.mean >= row.accuracy.mean
        and (other.gmacs, -other.accuracy.mean) != (row.gmacs, -row.accuracy.mean)
        for other in all_rows
    )


def table(task: str, found: Sequence[Row]) -> Iterator[str]:
    """As Markdown; a star at what nothing beats in both accuracy and GMACs."""
    batches = sorted({batch for row in found for batch in row.speeds})
    timed = [f"times as fast, batch {batch}" for batch in batches]
    yield f"## {task}\n"
    yield f"| | | accuracy | ± | seeds | active | GMACs | {' | '.join([*timed, 'blocks rewritten'])} |"
    yield f"| --- | --- | {' | '.join(['---:'] * (6 + len(timed)))} |"
    for row in found:
        deviation = "" if row.accuracy.deviation is None else f"{100 * row.accuracy.deviation:.1f}"
        speeds = [
            "{:.2f} [{:.2f}, {:.2f}]".format(*row.speeds[batch]) if batch in row.speeds else "" for batch in batches
        ]
        cells = [
            row.method,
            row.label,
            f"{100 * row.accuracy.mean:.1f}{'' if beaten(row, found) else ' *'}",
            deviation,
            str(row.accuracy.count),
            f"{row.active_rate:.3f}",
            f"{row.gmacs:.4g}",
            *speeds,
            row.rewritten or "",
        ]
        yield f"| {' | '.join(cells)} |"
    yield f"\nDense: {found[0].gmacs_dense:.4g} GMACs. *: nothing is as accurate for as few. Active: of the tokens that"
    yield "a reducer leaves. Times: optimised by `dyt.optimize`, which rewrites no block that has a reducer; medians of"
    yield "paired ratios with their intervals.\n"


def picture(task: str, found: Sequence[Row]) -> Figure:
    """Accuracy against GMACs, and against the time of each batch, both as shares of the dense model's."""
    batches = sorted({batch for row in found for batch in row.speeds})
    figure = Figure(figsize=(4.6 * (1 + len(batches)) + 2.2, 4.2), layout="constrained")
    panels = figure.subplots(1, 1 + len(batches), sharey=True, squeeze=False)[0]
    _panel(panels[0], {(row.method, row.label): row.gmacs / row.gmacs_dense for row in found}, found, "GMACs")
    for axes, batch in zip(panels[1:], batches, strict=True):
        costs = {(row.method, row.label): 1 / row.speeds[batch][0] for row in found if batch in row.speeds}
        _panel(axes, costs, found, f"time, batch {batch}")
    panels[0].set_ylabel("accuracy (%)", color=INK)
    figure.suptitle(task, fontsize=11, color=INK)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, costs: Mapping[tuple[str, str], float], found: Sequence[Row], what: str) -> None:
    for place, method in enumerate(dict.fromkeys(row.method for row in found)):
        own = [row for row in found if row.method == method and (row.method, row.label) in costs]
        own.sort(key=lambda row: costs[row.method, row.label])
        xs, ys = [costs[row.method, row.label] for row in own], [100 * row.accuracy.mean for row in own]
        errors = [100 * (row.accuracy.deviation or 0.0) for row in own]
        axes.errorbar(xs, ys, errors, fmt="o-", color=f"C{place}", label=method, markersize=4, linewidth=1.2,
                      elinewidth=0.7)  # fmt: skip
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xlabel(f"{what}, of the dense model's", color=INK)
    axes.grid(color=PALE, linewidth=0.5)
    framed(axes)
