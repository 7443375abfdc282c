"""timm's MLPs that stand in blocks of several families, as `Family.written_for` names them."""

from __future__ import annotations

from timm.layers import GluMlp, Mlp, SwiGLU  # type: ignore[attr-defined]

from dyt.families.base import Written

FORWARD = ("forward",)
MLPS: Written = {Mlp: FORWARD, GluMlp: FORWARD, SwiGLU: FORWARD}
