"""`cait`: timm's `cait.Cait`: its patch blocks are dispatched, its class-attention blocks stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models.cait import Cait, LayerScaleBlock, TalkingHeadAttn
from torch import Tensor, nn

from dyt.core.route import Tokens
from dyt.families.attention import split_heads
from dyt.families.base import Written
from dyt.families.timm_mlps import FORWARD, MLPS
from dyt.families.vit import IsotropicFamily
from dyt.registry import families

ATTENTION = ("norm1", "attn", "drop_path")
MLP = ("norm2", "mlp", "drop_path")


@families("cait")
class CaitFamily(IsotropicFamily):
    """Talking-heads attention (arXiv:2003.02436) among the patch tokens; the class token joins after these blocks."""

    examples = ("cait_s24_224",)
    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ATTENTION, "mlp": MLP, "layer": (*ATTENTION, *MLP)}
    norms: ClassVar[dict[str, str]] = {"attn": "norm1", "mlp": "norm2", "layer": "norm1"}
    backbones = (Cait,)
    block = LayerScaleBlock
    written_for: ClassVar[Written] = {LayerScaleBlock: FORWARD, TalkingHeadAttn: FORWARD, **MLPS}

    def refusal(self, backbone: Any, branch: str) -> str | None:
        others = {type(block.attn).__name__ for block in backbone.blocks if type(block.attn) is not TalkingHeadAttn}
        if branch != "mlp" and others:
            return f"its {others.pop()} cannot be told which tokens to attend to"
        return super().refusal(backbone, branch)

    def prefix_tokens(self, backbone: nn.Module) -> int:
        """None in the patch blocks: `num_prefix_tokens` counts the class token, which joins after them."""
        return 0

    def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path(block.gamma_2 * block.mlp(block.norm2(x)))
        return out

    def attn(self, block: Any, x: Tensor, tokens: Tokens) -> Tensor:
        y, sees = block.norm1(x), tokens.sees()
        y = block.attn(y) if sees is None else _seeing(block.attn, y, sees)
        out: Tensor = block.drop_path(block.gamma_1 * y)
        return out

    def attention_refusal(self, backbone: nn.Module) -> str | None:
        return "its class token joins after the blocks that are dispatched"


def _seeing(attn: Any, y: Tensor, sees: Tensor) -> Tensor:
    """Talking heads where a query sees some keys only, (B, 1, K, K).

    Hidden keys are left out of the softmax, and again after it, because the mixing of heads there has a bias.
    """
    q, k, v = (split_heads(part, attn.num_heads) for part in attn.qkv(y).chunk(3, -1))
    scores = attn.proj_l((q * attn.scale @ k.mT).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    weights = scores.masked_fill(~sees, -float("inf")).softmax(-1)
    weights = attn.proj_w(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).masked_fill(~sees, 0.0)
    mixed = (attn.attn_drop(weights) @ v).transpose(1, 2).flatten(2)
    out: Tensor = attn.proj_drop(attn.proj(mixed))
    return out
