"""`beit`: timm's `beit.Beit` (BEiT, BEiTv2): relative-position bias of each block or shared, gamma_1 of the block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.models.beit import Attention, Beit, Block
from torch import Tensor

from dyt.core.offloading import at_hand
from dyt.core.route import Tokens
from dyt.families.attention import biased_attention, class_row, mask_for, split_heads
from dyt.families.base import Written
from dyt.families.timm_mlps import FORWARD, MLPS
from dyt.families.vit import IsotropicFamily
from dyt.registry import families

ATTENTION = ("norm1", "attn", "drop_path1")
MLP = ("norm2", "mlp", "drop_path2")


@families("beit")
class BeitFamily(IsotropicFamily):
    """The bias of gathered tokens is gathered at their positions: rows and columns of the window's whole bias."""

    examples = ("beit_base_patch16_224",)
    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ATTENTION, "mlp": MLP, "layer": (*ATTENTION, *MLP)}
    norms: ClassVar[dict[str, str]] = {"attn": "norm1", "mlp": "norm2", "layer": "norm1"}
    backbones = (Beit,)
    block = Block
    written_for: ClassVar[Written] = {
        Block: FORWARD,
        Attention: ("forward", "_get_rel_pos_bias"),
        **MLPS,
    }

    def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = block.mlp(block.norm2(x))
        out: Tensor = block.drop_path2(y if block.gamma_2 is None else block.gamma_2 * y)
        return out

    def attn(self, block: Any, x: Tensor, tokens: Tokens, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        attn, y = block.attn, block.norm1(x)
        if tokens.index is None and tokens.valid is None:
            with at_hand(attn.qkv):  # whose weight timm reads without a call
                y = attn(y, shared_rel_pos_bias=shared_rel_pos_bias)
        else:
            bias = mask_for(x, tokens, _bias(attn, shared_rel_pos_bias))
            y = biased_attention(attn, *_projected(attn, y), bias)
        out: Tensor = block.drop_path1(y if block.gamma_1 is None else block.gamma_1 * y)
        return out

    def attention_refusal(self, backbone: Any) -> str | None:
        return None

    def class_attention(self, block: Any, x: Tensor, prefix: int, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        attn = block.attn
        q, k, _ = _projected(attn, block.norm1(x))
        return class_row(q[:, :, :1], k, attn.scale, prefix, _bias(attn, shared_rel_pos_bias))


def _projected(attn: Any, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (B, H, K, D); timm keeps their biases apart and has none for keys."""
    qkv = attn.qkv(y)
    if attn.q_bias is not None:
        with at_hand(attn):
            qkv = qkv + torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
    q, k, v = (split_heads(part, attn.num_heads) for part in qkv.chunk(3, -1))
    return q, k, v


def _bias(attn: Any, shared: Tensor | None) -> Tensor | None:
    """(1, H, N, N): the block's own bias, the shared one, or their sum."""
    if attn.relative_position_bias_table is None:
        return shared
    with at_hand(attn):
        own: Tensor = attn._get_rel_pos_bias()
    return own if shared is None else own + shared
