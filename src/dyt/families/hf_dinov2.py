"""`hf_dinov2`: transformers' DINOv2 models, with and without register tokens, with or without a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from dyt.core.route import Tokens
from dyt.families.base import Written
from dyt.families.huggingface import HuggingFace, forwards
from dyt.registry import families

ATTENTION = ("norm1", "attention", "layer_scale1", "drop_path")
MLP = ("norm2", "mlp", "layer_scale2", "drop_path")
PARTS = ("Layer", "Attention", "MLP", "SwiGLUFFN")


@families("hf_dinov2")
class HFDinov2(HuggingFace):
    """Pre-norm layers with layer scale; one drop path module, transformers' own, serves both branches."""

    layers = ("Dinov2Layer", "Dinov2WithRegistersLayer")
    written_for: ClassVar[Written] = {
        **forwards("dinov2", *(f"Dinov2{part}" for part in PARTS)),
        **forwards("dinov2_with_registers", *(f"Dinov2WithRegisters{part}" for part in PARTS)),
    }
    attention, dropout = "attention", "attention_dropout"
    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ATTENTION, "mlp": MLP, "layer": (*ATTENTION, *MLP)}
    norms: ClassVar[dict[str, str]] = {"attn": "norm1", "mlp": "norm2", "layer": "norm1"}

    def stochastic(self, block: nn.Module, branch: str) -> bool:
        return float(getattr(block.drop_path, "drop_prob", 0.0)) > 0 or super().stochastic(block, branch)

    def mlp(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path(block.layer_scale2(block.mlp(block.norm2(x))))  # type: ignore[operator]
        return out

    def attn(
        self, block: nn.Module, x: Tensor, tokens: Tokens, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        y = self.attended(block, block.norm1(x), tokens, attention_mask, kwargs)  # type: ignore[operator]
        out: Tensor = block.drop_path(block.layer_scale1(y))  # type: ignore[operator]
        return out
