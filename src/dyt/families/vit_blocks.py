"""`vit_respost`, `vit_parallel_things`: VisionTransformer with two of timm's other blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.layers.attention import Attention
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer import ParallelThingsBlock, ResPostBlock, VisionTransformer
from torch import Tensor

from dyt.core.route import ALL_TOKENS, Tokens
from dyt.families.attention import mask_for
from dyt.families.base import Written
from dyt.families.timm_mlps import FORWARD, MLPS
from dyt.families.vit import IsotropicFamily, class_row_of, class_token_refusal
from dyt.registry import families

ATTENTION = ("attn", "norm1", "drop_path1")
MLP = ("mlp", "norm2", "drop_path2")


@families("vit_respost")
class ResPostViT(IsotropicFamily):
    """`ResPostBlock`: the outputs of attention and MLP are normalised, not their inputs."""

    examples = ("vit_base_patch16_rpn_224",)
    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ATTENTION, "mlp": MLP, "layer": (*ATTENTION, *MLP)}
    backbones = (VisionTransformer, NaFlexVit)
    block = ResPostBlock
    written_for: ClassVar[Written] = {ResPostBlock: FORWARD, Attention: FORWARD, **MLPS}

    def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path2(block.norm2(block.mlp(x)))
        return out

    def attn(
        self, block: Any, x: Tensor, tokens: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        mask = mask_for(x, tokens, attn_mask, is_causal)
        out: Tensor = block.drop_path1(block.norm1(block.attn(x, attn_mask=mask, is_causal=False)))
        return out

    def attention_refusal(self, backbone: Any) -> str | None:
        return class_token_refusal(backbone, (block.attn for block in backbone.blocks))

    def class_attention(
        self, block: Any, x: Tensor, prefix: int, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        return class_row_of(block.attn, x, prefix, mask_for(x, ALL_TOKENS, attn_mask, is_causal))


@families("vit_parallel_things")
class ParallelThingsViT(IsotropicFamily):
    """`ParallelThingsBlock` (arXiv:2203.09795): several attentions side by side, then several MLPs, each with its norm.

    The attention branch is the sum of all attentions, the MLP branch of all MLPs.
    """

    examples = ("vit_small_patch16_18x2_224",)
    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ("attns",), "mlp": ("ffns",), "layer": ("attns", "ffns")}
    backbones = (VisionTransformer, NaFlexVit)
    block = ParallelThingsBlock
    written_for: ClassVar[Written] = {ParallelThingsBlock: FORWARD, Attention: FORWARD, **MLPS}

    def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.stack([ffn(x) for ffn in block.ffns]).sum(0)

    def attn(
        self, block: Any, x: Tensor, tokens: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        mask = mask_for(x, tokens, attn_mask, is_causal)
        found = [way.drop_path(way.ls(way.attn(way.norm(x), attn_mask=mask, is_causal=False))) for way in block.attns]
        return torch.stack(found).sum(0)

    def attention_refusal(self, backbone: Any) -> str | None:
        return class_token_refusal(backbone, (way.attn for block in backbone.blocks for way in block.attns))

    def class_attention(
        self, block: Any, x: Tensor, prefix: int, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """The mean over the heads of all its attentions."""
        mask = mask_for(x, ALL_TOKENS, attn_mask, is_causal)
        return torch.stack([class_row_of(way.attn, way.norm(x), prefix, mask) for way in block.attns]).mean(0)
