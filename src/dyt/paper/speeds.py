"""What the paper prints of speed (tables 4 and 5), beside a benchmark of the same models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dyt.measure.bench import Bench
from dyt.paper.data import table

PAPER_PEERS: Mapping[str, str] = {
    "static adapter": "static_adapter_vtab",
    "merged LoRA": "lora_vtab",
    "VPT": "vpt_vtab",
    "ToMe": "tome",
    "ToMe + AdaptFormer": "tome_adaptformer",
    "EViT": "evit",
    "EViT + AdaptFormer": "evit_adaptformer",
    "DynamicViT": "dynamicvit",
    "DynamicViT + AdaptFormer": "dynamicvit_adaptformer",
    "DyT + ToMe": "dyt_tome",
}
"""The rows of tables 4 and 5 that are not DyT or dense timm, with their presets."""


@dataclass(frozen=True)
class PaperSpeed:
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


PRINTED: tuple[PaperSpeed, ...] = table(PaperSpeed, "speeds.csv")
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
        ratios = "  ".join(f"{'' if ratio is None else f'{ratio:.2f}':>5}" for ratio in theirs)
        lines.append(
            f"{row.table:>5}  {row.name:24}  {row.gmacs:>11.2f}  {mine.macs / 1e9:>6.2f}  {ratios}  {mine.speedup}"
        )
    return lines
