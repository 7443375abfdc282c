"""A benchmark as lines, as a picture, and beside the paper's tables 4 and 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    told = {name: f"{value:.1f}" if isinstance(value, float) else value for name, value in found.conditions.items()}
    lines = [
        f"{found.title}, {height} x {breadth}; DyT: {found.masks}",
        ", ".join(f"{name} {value}" for name, value in told.items()),
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


@dataclass(frozen=True)
class Printed:
    """A row of the paper's table 4 (ViT-B/16; batch 512 on the GPUs, 32 on the CPU) or 5 (V100).

    Attributes:
        table: its number.
        name: the row, in the paper's words.
        contender: ours.
        gmacs: per image.
        v100, t4, xeon: images per second; None where the paper has none.
    """

    table: int
    name: str
    contender: str
    gmacs: float
    v100: float
    t4: float | None = None
    xeon: float | None = None


PRINTED: tuple[Printed, ...] = (
    Printed(4, "full tuning", DENSE, 17.58, 806.24, 435.41, 2.12),
    Printed(4, "LoRA", "merged LoRA", 17.58, 806.24, 435.41, 2.12),
    Printed(4, "AdaptFormer", "static adapter", 17.61, 767.30, 400.42, 1.97),
    Printed(4, "VPT", "VPT", 18.30, 762.55, 392.13, 1.95),
    Printed(4, "DyT, r = 0.5", "DyT", 12.54, 912.30, 524.93, 3.89),
    Printed(5, "DynamicViT", "DynamicViT", 14.05, 1010.40),
    Printed(5, "DynamicViT + AdaptFormer", "DynamicViT + AdaptFormer", 14.23, 954.82),
    Printed(5, "EViT", "EViT", 11.62, 1233.45),
    Printed(5, "EViT + AdaptFormer", "EViT + AdaptFormer", 11.77, 1152.38),
    Printed(5, "full tuning + ToMe", "ToMe", 13.12, 989.29),
    Printed(5, "AdaptFormer + ToMe", "ToMe + AdaptFormer", 13.29, 941.70),
    Printed(5, "DyT, r = 0.5", "DyT", 12.54, 912.39),
    Printed(5, "DyT, r = 0.5 + ToMe", "DyT + ToMe", 9.85, 1114.70),
)
"""As printed. Images per second are one machine's, so that they are compared as ratios to full tuning's."""


def beside_paper(found: Bench, ours: str = "DyT, sparse") -> list[str]:
    """Tables 4 and 5 with our columns beside theirs, for the rows that were run; both as ratios to full tuning.

    Args:
        found: of ViT-B/16; other models are not in those tables.
        ours: the contender that stands for DyT.
    """
    full, here = PRINTED[0], {row.name: row for row in found.rows}
    assert full.t4 is not None
    assert full.xeon is not None
    lines = [
        f"{found.title}: the paper's tables 4 and 5, speed over full tuning (dense timm); DyT is '{ours}'",
        f"{'':5}  {'':24}  {'paper GMACs':>11}  {'ours':>6}  {'V100':>5}  {'T4':>5}  {'Xeon':>5}  ours, here",
    ]
    for row in PRINTED:
        mine = here.get(ours if row.contender == "DyT" else row.contender)
        if mine is None:
            continue
        theirs = (row.v100 / full.v100, row.t4 and row.t4 / full.t4, row.xeon and row.xeon / full.xeon)
        told = "  ".join(f"{'' if ratio is None else f'{ratio:.2f}':>5}" for ratio in theirs)
        lines.append(
            f"{row.table:>5}  {row.name:24}  {row.gmacs:>11.2f}  {mine.macs / 1e9:>6.2f}  {told}  {mine.speedup}"
        )
    return lines
