"""`hf_clip`: transformers' vision models of CLIP and SigLIP, whose layers are laid out alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from dyt.core.route import Tokens
from dyt.families.base import Written
from dyt.families.huggingface import HuggingFace, forwards
from dyt.registry import families

ATTENTION = ("layer_norm1", "self_attn")
MLP = ("layer_norm2", "mlp")


@families("hf_clip")
class HFCLIP(HuggingFace):
    """Pre-norm layers. CLIP has a class token, SigLIP none."""

    layers = ("CLIPEncoderLayer", "SiglipEncoderLayer")
    written_for: ClassVar[Written] = {
        **forwards("clip", "CLIPEncoderLayer", "CLIPAttention", "CLIPMLP"),
        **forwards("siglip", "SiglipEncoderLayer", "SiglipAttention", "SiglipMLP"),
    }
    attention, dropout = "self_attn", "dropout"
    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ATTENTION, "mlp": MLP, "layer": (*ATTENTION, *MLP)}
    norms: ClassVar[dict[str, str]] = {"attn": "layer_norm1", "mlp": "layer_norm2", "layer": "layer_norm1"}

    def mlp(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.mlp(block.layer_norm2(x))  # type: ignore[operator]
        return out

    def attn(
        self, block: nn.Module, x: Tensor, tokens: Tokens, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        return self.attended(block, block.layer_norm1(x), tokens, attention_mask, kwargs)  # type: ignore[operator]
