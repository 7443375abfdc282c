"""A benchmark as lines and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dyt.measure.bench import Bench
from dyt.measure.contenders import DENSE, OPTIMISED
from dyt.measure.latency import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def table(found: Bench) -> list[str]:
    """What was measured, under which conditions, in lines; a line for each contender."""
    width = max(len(row.name) for row in found.rows)
    first = found.rows[0].speedup
    height, breadth = found.size
    words = {name: f"{value:.1f}" if isinstance(value, float) else value for name, value in found.conditions.items()}
    lines = [
        f"{found.title}, {height} x {breadth}; DyT: {found.masks}",
        ", ".join(f"{name} {value}" for name, value in words.items()),
        f"speed-up over {DENSE}: median of {first.pairs} paired ratios, {first.coverage:.0%} interval",
        f"{'':{width}}  {'speed-up':>20}  {'MACs saved':>10}  {'GMACs':>7}  {'active':>6}  {'ms/call':>8}  "
        f"{'images/s':>8}  differs",
    ]
    for row in found.rows:
        active = "" if row.active_rate is None else f"{row.active_rate:.1%}"
        apart = "" if row.difference is None else f"{row.difference:.0e}"
        saved = found.row(DENSE).macs / row.macs
        lines.append(
            f"{row.name:{width}}  {row.speedup!s:>20}  {saved:>9.2f}x  {row.macs / 1e9:>7.3f}  {active:>6}  "
            f"{1e3 * row.seconds:>8.1f}  {found.batch / row.seconds:>8.1f}  {apart}".rstrip()
        )
    return [*lines, *(f"{name}: left out: {reason}" for name, reason in found.left.items())]


def picture(found: Sequence[Bench]) -> Figure:
    """Time against multiply-accumulates, a panel for each benchmark."""
    from dyt.measure.plots import Timed, time_against_macs

    panels = {}
    for one in found:
        dense = one.row(DENSE).macs
        panels[one.title] = [
            Timed(row.name, row.macs / dense, *(1 / v for v in (row.speedup.median, row.speedup.high, row.speedup.low)))
            for row in one.rows
        ]
    return time_against_macs(panels)


def over_activity(found: Sequence[Bench], title: str = "") -> Figure:
    """Speed-ups of optimised models at several active shares, and that of the work saved; a panel for each point."""
    from dyt.measure.plots import speed_over_activity

    panels: dict[str, dict[str, list[tuple[float, Interval]]]] = {}
    ideal: dict[str, list[tuple[float, float]]] = {}
    for one in found:
        rows = [row for row in one.rows if row.name.startswith(OPTIMISED)]
        share = max(row.active_rate or 0.0 for row in one.rows)  # of a last block for the class token alone it is 0
        for row in rows:
            panels.setdefault(one.title, {}).setdefault(row.name, []).append((share, row.speedup))
        least = min(row.macs for row in rows)
        ideal.setdefault(one.title, []).append((share, one.row(DENSE).macs / least))
    return speed_over_activity(panels, ideal, title)
