"""`hf_vit`: transformers' `ViTModel` and `ViTForImageClassification`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from dyt.core.route import Tokens
from dyt.families.base import Written
from dyt.families.huggingface import HuggingFace, forwards
from dyt.registry import families

ATTENTION = ("layernorm_before", "attention", "dropout")
MLP = ("layernorm_after", "mlp", "dropout")


@families("hf_vit")
class HFViT(HuggingFace):
    """Pre-norm layers; one dropout module serves both branches."""

    layers = ("ViTLayer",)
    written_for: ClassVar[Written] = forwards("vit", "ViTLayer", "ViTAttention", "ViTMLP")
    attention, dropout = "attention", "attention_dropout"
    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ATTENTION, "mlp": MLP, "layer": (*ATTENTION, *MLP)}
    norms: ClassVar[dict[str, str]] = {
        "attn": "layernorm_before",
        "mlp": "layernorm_after",
        "layer": "layernorm_before",
    }

    def mlp(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.dropout(block.mlp(block.layernorm_after(x)))  # type: ignore[operator]
        return out

    def attn(
        self, block: nn.Module, x: Tensor, tokens: Tokens, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        y = block.layernorm_before(x)  # type: ignore[operator]
        out: Tensor = block.dropout(self.attended(block, y, tokens, attention_mask, kwargs))  # type: ignore[operator]
        return out
