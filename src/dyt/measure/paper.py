"""The paper's tables that need no data: parameters and multiply-accumulates of each preset, beside the printed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dyt.config.presets import preset
from dyt.errors import DyTError
from dyt.measure.costs import costs


@dataclass(frozen=True)
class Row:
    """One row of a table of the paper and the preset that is it.

    Attributes:
        table: its number.
        name: the row, in the paper's words.
        preset: ours.
        params: trainable parameters without the head, in millions, as printed; None where the paper has none.
        gmacs: giga multiply-accumulates of one 224 x 224 image, or of a clip of eight, as printed; None where the paper
            has none, or those of another decoder.
    """

    table: int
    name: str
    preset: str
    params: float | None = None
    gmacs: float | None = None


ROWS: tuple[Row, ...] = (
    Row(1, "attention", "dyt_attn", 1.19, 14.77),
    Row(1, "MLP", "dyt", 1.19, 12.21),
    Row(1, "attention-MLP", "dyt_attn_mlp", 2.38, 12.93),
    Row(1, "layer", "dyt_layer", 1.19, 13.08),
    Row(2, "plain adapter", "dyt", 1.19, 12.21),
    Row(2, "MoE, 2 experts", "dyt_moe2", 2.40, 12.58),
    Row(2, "MoE, 4 experts", "dyt_moe4", 4.80, 12.29),
    Row(2, "MoE, 8 experts", "dyt_moe8", 9.60, 12.44),
    Row(2, "MoE, 12 experts", "dyt_moe12", 14.40, 12.43),
    Row(3, "full tuning", "full", 85.8, 17.58),
    Row(3, "frozen", "linear", 0.0, 17.58),
    Row(3, "AdaptFormer", "static_adapter_vtab", 0.16, 17.61),
    Row(3, "BitFit", "bitfit", 0.10, 17.58),
    Row(3, "LoRA", "lora_vtab", 0.29, 17.58),
    Row(3, "VPT", "vpt_vtab", 0.53, 18.30),
    Row(3, "DyT, r = 0.5", "dyt_vtab", 0.16, 12.54),
    Row(3, "DyT, r = 0.7", "dyt_vtab_r0.7", 0.16, 14.92),
    Row(3, "DyT, r = 0.9", "dyt_vtab_r0.9", 0.16, 17.07),
    Row(5, "DynamicViT", "dynamicvit", 88.7, 14.05),
    Row(5, "DynamicViT + AdaptFormer", "dynamicvit_adaptformer", 3.10, 14.23),
    Row(5, "EViT", "evit", 85.8, 11.62),
    Row(5, "EViT + AdaptFormer", "evit_adaptformer", 0.16, 11.77),
    Row(5, "full tuning + ToMe", "tome", 85.8, 13.12),
    Row(5, "AdaptFormer + ToMe", "tome_adaptformer", 0.16, 13.29),
    Row(5, "DyT, r = 0.5", "dyt_vtab", 0.16, 12.54),
    Row(5, "DyT, r = 0.5 + ToMe", "dyt_tome", 0.16, 9.85),
    Row(6, "full tuning", "full", 85.8, 17.58),
    Row(6, "linear", "linear", 0.0, 17.58),
    Row(6, "dynamic full", "dynamic_full", 85.8, 12.24),
    Row(6, "AdaptFormer", "static_adapter", 1.19, 17.81),
    Row(6, "LoRA", "lora", 1.19, 17.58),
    Row(6, "VPT", "vpt", 0.07, 18.32),
    Row(6, "DyT", "dyt", 1.19, 12.21),
    Row(6, "DyT, 4 experts", "dyt_moe4", 4.80, 12.29),
    Row(6, "full tuning, video", "full_video", 85.8, 142.53),
    Row(6, "linear, video", "linear_video", 0.0, 142.53),
    Row(6, "dynamic full, video", "dynamic_full_video", 85.8, 107.67),
    Row(6, "AdaptFormer, video", "adaptformer_video", 1.19, 144.39),
    Row(6, "LoRA, video", "lora_video", 1.19, 142.53),
    Row(6, "VPT, video", "vpt_video", 0.07, 148.44),
    Row(6, "DyT, video", "dyt_video", 1.19, 108.31),
    Row(6, "DyT, 4 experts, video", "dyt_moe4_video", 4.80, 105.45),
    Row(7, "token, learned", "dyt"),
    Row(7, "sample, learned", "dyt_sample"),
    Row(7, "token, random", "dyt_random"),
    Row(7, "sample, random", "dyt_sample_random"),
    Row(8, "d = 1", "dyt_d1", 0.03, 12.11),
    Row(8, "d = 4", "dyt_d4", 0.08, 11.89),
    Row(8, "d = 16", "dyt_d16", 0.30, 12.06),
    Row(8, "d = 64", "dyt", 1.19, 12.21),
    Row(8, "d = 256", "dyt_d256", 4.73, 13.32),
    Row(9, "temperature 0.1", "dyt_tau0.1"),
    Row(9, "temperature 1", "dyt_tau1"),
    Row(9, "temperature 5", "dyt"),
    Row(9, "temperature 5 to 0.1", "dyt_tau_schedule"),
    Row(10, "full tuning", "full_segmentation", 85.8),
    Row(10, "linear", "linear_segmentation", 0.0),
    Row(10, "dynamic full", "dynamic_full_segmentation", 85.8),
    Row(10, "AdaptFormer", "adaptformer_segmentation", 1.19),
    Row(10, "LoRA", "lora_segmentation", 1.19),
    Row(10, "VPT", "vpt_segmentation", 0.07),
    Row(10, "DyT", "dyt_segmentation", 1.19),
    Row(10, "DyT, 4 experts", "dyt_moe4_segmentation", 4.80),
    Row(11, "full tuning", "full_detection", 85.8),
    Row(11, "AdaptFormer", "adaptformer_detection", 2.56),
    Row(11, "DyT", "dyt_detection", 2.56),
    Row(11, "DyT, 4 experts", "dyt_detection_moe4", 10.24),
    Row(12, "all terms", "dyt_vtab"),
    Row(12, "without distillation", "dyt_vtab_without_distill"),
    Row(12, "without distillation and complete model", "dyt_vtab_without_complete"),
    Row(17, "Swin-B, full tuning", "full_swin_b", 86.74, 15.40),
    Row(17, "Swin-B, r = 0.1", "dyt_swin_b_r0.1", 1.55, 10.72),
    Row(17, "Swin-B, r = 0.3", "dyt_swin_b_r0.3", 1.55, 12.07),
    Row(17, "Swin-B, r = 0.5", "dyt_swin_b_r0.5", 1.55, 13.25),
    Row(17, "Swin-B, r = 0.7", "dyt_swin_b_r0.7", 1.55, 14.05),
    Row(17, "Swin-B, r = 0.9", "dyt_swin_b_r0.9", 1.55, 15.23),
    Row(18, "ViT-L, full tuning", "full_vit_l", 303.3, 61.60),
    Row(18, "ViT-L, r = 0.1", "dyt_vit_l_r0.1", 3.17, 32.56),
    Row(18, "ViT-L, r = 0.3", "dyt_vit_l_r0.3", 3.17, 36.77),
    Row(18, "ViT-L, r = 0.5", "dyt_vit_l_r0.5", 3.17, 43.79),
    Row(18, "ViT-L, r = 0.7", "dyt_vit_l_r0.7", 3.17, 51.11),
    Row(18, "ViT-L, r = 0.9", "dyt_vit_l_r0.9", 3.17, 60.05),
    Row(19, "ViT-L, full tuning", "full_vit_l", 303.3, 61.60),
    Row(19, "ViT-L, r = 0.5", "dyt_vit_l_vtab", 0.44, 43.52),
)
"""Every row that is ours or a baseline of ours; the methods that the paper only quotes are left out."""


@dataclass(frozen=True)
class Line:
    """A row beside what is computed.

    Attributes:
        row: the paper's.
        params: trainable parameters in millions, head and dispatchers left out as in the paper.
        nominal: giga multiply-accumulates with exactly the nominal share of the patch tokens active in every image.
        measured: the mean over images with random masks of that rate, each image at its own.
    """

    row: Row
    params: float
    nominal: float
    measured: float

    @property
    def params_off(self) -> float | None:
        """Ours over the paper's, minus one; 0 for less than 0.01 M apart; None where the paper has none."""
        if self.row.params is None:
            return None
        if abs(self.params - self.row.params) < 0.01:
            return 0.0
        return self.params / self.row.params - 1 if self.row.params else float("inf")

    @property
    def gmacs_off(self) -> float | None:
        """Ours (nominal) over the paper's, minus one; None where the paper has none."""
        return None if self.row.gmacs is None else self.nominal / self.row.gmacs - 1


def tables() -> list[int]:
    """The numbers of the tables that can be computed."""
    return sorted({row.table for row in ROWS})


def rows_of(chosen: Sequence[int] = ()) -> tuple[Row, ...]:
    """The rows of the chosen tables, or of all.

    Raises:
        DyTError: a table that is not among them.
    """
    unknown = sorted(set(chosen) - set(tables()))
    if unknown:
        allowed = ", ".join(map(str, tables()))
        raise DyTError(f"no table {unknown[0]} to compute; allowed: {allowed} (the others need data)")
    return tuple(row for row in ROWS if not chosen or row.table in chosen)


def lines(rows: Sequence[Row] = ROWS, images: int = 4) -> Iterator[Line]:
    """Computes rows one by one; each preset once.

    Args:
        rows: some of `ROWS`.
        images: how many random masks are averaged.
    """
    known: dict[str, tuple[float, float, float]] = {}
    for row in rows:
        if row.preset not in known:
            found = costs(preset(row.preset), images=images)
            known[row.preset] = (found.trainable - found.dispatchers) / 1e6, found.nominal / 1e9, found.executed / 1e9
        yield Line(row, *known[row.preset])
