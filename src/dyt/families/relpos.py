"""`relpos`, `relpos_respost`: timm's `VisionTransformerRelPos` and its two blocks; the bias is gathered with tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from timm.layers.pos_embed_rel import RelPosBias, RelPosMlp
from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    ResPostRelPosBlock,
    VisionTransformerRelPos,
)
from torch import Tensor

from dyt.core.offloading import at_hand
from dyt.core.route import Tokens
from dyt.families.attention import biased_attention, class_row, mask_for, split_heads
from dyt.families.base import Written
from dyt.families.timm_mlps import FORWARD, MLPS
from dyt.families.vit import IsotropicFamily
from dyt.registry import families

NORMED_ATTENTION = ("norm1", "attn", "drop_path1")
NORMED_MLP = ("norm2", "mlp", "drop_path2")
ATTENTION, MLP = (*NORMED_ATTENTION, "ls1"), (*NORMED_MLP, "ls2")
PARTS: Written = {RelPosAttention: FORWARD, RelPosMlp: ("get_bias",), RelPosBias: ("get_bias",), **MLPS}


class RelPosBase(IsotropicFamily):
    """Attention with a relative-position bias: a table or an MLP, of each block or shared by all."""

    backbones = (VisionTransformerRelPos,)

    def attended(self, block: Any, x: Tensor, tokens: Tokens, shared_rel_pos: Tensor | None) -> Tensor:
        """The block's attention of x (B, K, C), normalised before where it has to be."""
        attn = block.attn
        if tokens.index is None and tokens.valid is None:
            out: Tensor = attn(x, shared_rel_pos=shared_rel_pos)
            return out
        q, k, v = _projected(attn, x)
        return biased_attention(attn, q, k, v, mask_for(x, tokens, _bias(attn, shared_rel_pos)))

    def attention_refusal(self, backbone: Any) -> str | None:
        return "it has no class token" if backbone.cls_token is None else None

    def class_attention(self, block: Any, x: Tensor, prefix: int, shared_rel_pos: Tensor | None = None) -> Tensor:
        attn = block.attn
        q, k, _ = _projected(attn, block.norm1(x) if "attn" in self.norms else x)
        return class_row(q[:, :, :1], k, attn.scale, prefix, _bias(attn, shared_rel_pos))


def _projected(attn: Any, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (B, H, K, D)."""
    q, k, v = (split_heads(part, attn.num_heads) for part in attn.qkv(y).chunk(3, -1))
    return attn.q_norm(q), attn.k_norm(k), v


def _bias(attn: Any, shared: Tensor | None) -> Tensor | None:
    """(1, H, N, N): the block's own bias, or the shared one."""
    if attn.rel_pos is None:
        return shared
    with at_hand(attn.rel_pos):
        own: Tensor = attn.rel_pos.get_bias()
    return own


@families("relpos")
class RelPos(RelPosBase):
    """Pre-norm, with LayerScale."""

    examples = ("vit_relpos_base_patch16_224",)
    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ATTENTION, "mlp": MLP, "layer": (*ATTENTION, *MLP)}
    norms: ClassVar[dict[str, str]] = {"attn": "norm1", "mlp": "norm2", "layer": "norm1"}
    block = RelPosBlock
    written_for: ClassVar[Written] = {RelPosBlock: FORWARD, **PARTS}

    def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return out

    def attn(self, block: Any, x: Tensor, tokens: Tokens, shared_rel_pos: Tensor | None = None) -> Tensor:
        y = self.attended(block, block.norm1(x), tokens, shared_rel_pos)
        out: Tensor = block.drop_path1(block.ls1(y))
        return out


@families("relpos_respost")
class ResPostRelPos(RelPosBase):
    """Normalised after attention and MLP (Swin v2's order)."""

    examples = ("vit_relpos_small_patch16_rpn_224",)
    children: ClassVar[dict[str, Sequence[str]]] = {
        "attn": NORMED_ATTENTION,
        "mlp": NORMED_MLP,
        "layer": (*NORMED_ATTENTION, *NORMED_MLP),
    }
    block = ResPostRelPosBlock
    written_for: ClassVar[Written] = {ResPostRelPosBlock: FORWARD, **PARTS}

    def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path2(block.norm2(block.mlp(x)))
        return out

    def attn(self, block: Any, x: Tensor, tokens: Tokens, shared_rel_pos: Tensor | None = None) -> Tensor:
        out: Tensor = block.drop_path1(block.norm1(self.attended(block, x, tokens, shared_rel_pos)))
        return out
