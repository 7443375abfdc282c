"""`eva`, `eva_postnorm`: timm's `eva.Eva` (EVA, EVA-02, DINOv3, Perception Encoder, rotary ViTs) and its two blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.layers.attention import AttentionRope
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.naflexvit import NaFlexVit
from torch import Tensor

from dyt.core.offloading import at_hand
from dyt.core.route import ALL_TOKENS, Tokens
from dyt.families.attention import class_row, gather_rope, mask_for, outputs, split_heads
from dyt.families.base import Written
from dyt.families.timm_mlps import FORWARD, MLPS
from dyt.families.vit import IsotropicFamily
from dyt.registry import families

ATTENTION = ("norm1", "attn", "drop_path1")
MLP = ("norm2", "mlp", "drop_path2")


class RotaryFamily(IsotropicFamily):
    """Blocks whose forward takes `rope`, `attn_mask` and `is_causal`; rope comes per layer where it is mixed.

    The rotary embedding is that of the patch tokens, in their order; of gathered tokens it is gathered.
    """

    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ATTENTION, "mlp": MLP, "layer": (*ATTENTION, *MLP)}

    def attended(
        self, block: Any, x: Tensor, tokens: Tokens, rope: Tensor | None, attn_mask: Tensor | None, is_causal: bool
    ) -> Tensor:
        """The block's attention of x (B, K, C), normalised before where it has to be."""
        if rope is not None:
            rope = gather_rope(rope, tokens, block.attn.num_prefix_tokens)
        mask = mask_for(x, tokens, attn_mask, is_causal)
        with at_hand(block.attn.qkv):  # whose weight timm reads without a call
            out: Tensor = block.attn(x, rope=rope, attn_mask=mask, is_causal=False)
        return out

    def attention_refusal(self, backbone: Any) -> str | None:
        token = backbone.embeds.cls_token if isinstance(backbone, NaFlexVit) else backbone.cls_token
        if token is None:
            return "it has no class token"
        kinds = {type(block.attn) for block in backbone.blocks} - {EvaAttention, AttentionRope}
        return f"the map of attention of {kinds.pop().__name__} is not known" if kinds else None

    def class_attention(
        self,
        block: Any,
        x: Tensor,
        prefix: int,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        attn = block.attn
        y = block.norm1(x) if "attn" in self.norms else x
        q, k = self._queries_keys(attn, y)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if rope is not None:
            half = getattr(attn, "rotate_half", False)
            k = torch.cat([k[:, :, :prefix], apply_rot_embed_cat(k[:, :, prefix:], rope, half=half)], 2)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        return class_row(q, k, attn.scale, prefix, mask_for(x, ALL_TOKENS, attn_mask, is_causal))

    def _queries_keys(self, attn: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """The class token's query (B, H, 1, D) and every token's key (B, H, N, D); it is first and is not rotated."""
        heads, first = attn.num_heads, y[:, :1]
        if attn.qkv is None:
            keys = getattr(attn, "num_kv_heads", heads)
            return split_heads(attn.q_proj(first), heads), split_heads(attn.k_proj(y), keys)
        width = attn.num_heads * attn.head_dim
        q, k = outputs(attn.qkv, first, 0, width), outputs(attn.qkv, y, width, 2 * width)
        with at_hand(attn):
            q_bias = getattr(attn, "q_bias", None)  # EvaAttention's own: none for keys
            return split_heads(q if q_bias is None else q + q_bias, heads), split_heads(k, heads)


@families("eva")
class EvaFamily(RotaryFamily):
    """`EvaBlock`: pre-norm, with gamma_1 and gamma_2 of the block's own, SwiGLU, grouped queries, gated attention.

    Also NaFlexViT with rotary embedding or SwiGLU, which is built of the same block.
    """

    examples = (
        "eva02_base_patch14_224",
        "vit_base_patch16_dinov3",
        "vit_pe_core_base_patch16_224",
    )
    norms: ClassVar[dict[str, str]] = {"attn": "norm1", "mlp": "norm2", "layer": "norm1"}
    backbones = (Eva, NaFlexVit)
    block = EvaBlock
    written_for: ClassVar[Written] = {EvaBlock: FORWARD, EvaAttention: FORWARD, AttentionRope: FORWARD, **MLPS}

    def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = block.mlp(block.norm2(x))
        out: Tensor = block.drop_path2(y if block.gamma_2 is None else block.gamma_2 * y)
        return out

    def attn(
        self,
        block: Any,
        x: Tensor,
        tokens: Tokens,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        y = self.attended(block, block.norm1(x), tokens, rope, attn_mask, is_causal)
        out: Tensor = block.drop_path1(y if block.gamma_1 is None else block.gamma_1 * y)
        return out


@families("eva_postnorm")
class EvaPostNormFamily(RotaryFamily):
    """`EvaBlockPostNorm`: the outputs of attention and MLP are normalised, not their inputs (EVA-02 E, E+)."""

    examples = ("eva02_enormous_patch14_clip_224",)
    backbones = (Eva,)
    block = EvaBlockPostNorm
    written_for: ClassVar[Written] = {
        EvaBlockPostNorm: FORWARD,
        EvaAttention: FORWARD,
        AttentionRope: FORWARD,
        **MLPS,
    }

    def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path2(block.norm2(block.mlp(x)))
        return out

    def attn(
        self,
        block: Any,
        x: Tensor,
        tokens: Tokens,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        y = self.attended(block, x, tokens, rope, attn_mask, is_causal)
        out: Tensor = block.drop_path1(block.norm1(y))
        return out
