"""`vit`, timm's plain pre-norm `Block`; and what every family of one stack of equal blocks on (B, N, C) shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from timm.layers import LayerNorm, LayerScale, Mlp  # type: ignore[attr-defined]
from timm.layers.activations import GELU
from timm.layers.attention import Attention
from timm.layers.diff_attention import DiffAttention
from timm.models.deit import VisionTransformerDistilled
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dyt.core.calls import bare
from dyt.core.route import ALL_TOKENS, Tokens
from dyt.families.attention import class_row, mask_for, outputs, split_heads, unseen
from dyt.families.base import Family, Written
from dyt.families.capture import captured, prepare
from dyt.families.timm_mlps import FORWARD, MLPS
from dyt.registry import families

ATTENTION = ("norm1", "attn", "ls1", "drop_path1")
MLP = ("norm2", "mlp", "ls2", "drop_path2")
NO_CLASS_TOKEN = "it has no class token"


class IsotropicFamily(Family):
    """A backbone with `blocks`, `embed_dim` and `num_prefix_tokens`, as timm's plain vision transformers have them.

    Attributes:
        backbones: the classes of backbones.
        block: the class of every block; a block that overrides its forward is not known.
    """

    backbones: ClassVar[tuple[type[nn.Module], ...]]
    block: ClassVar[type[nn.Module]]

    def matches(self, backbone: nn.Module) -> bool:
        known = self.block
        return isinstance(backbone, self.backbones) and all(
            isinstance(block, known) and type(block).forward is known.forward for block in self._blocks(backbone)
        )

    def blocks(self, backbone: nn.Module) -> Sequence[str]:
        return [f"blocks.{i}" for i in range(len(self._blocks(backbone)))]

    def dim(self, backbone: Any, block: nn.Module) -> int:
        return int(backbone.embed_dim)

    def prefix_tokens(self, backbone: Any) -> int:
        return int(backbone.num_prefix_tokens)

    def resumable(self, backbone: nn.Module) -> bool:
        kind = type(backbone)
        return (
            issubclass(kind, VisionTransformer)
            and kind.forward is VisionTransformer.forward
            and kind.forward_features is VisionTransformer.forward_features
        )

    def padding(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        """The tokens that the attention mask which the backbone passes hides from all others (NaFlexViT's padding)."""
        mask = kwargs.get("attn_mask")
        return None if mask is None else unseen(x, mask)

    def _blocks(self, backbone: Any) -> Sequence[nn.Module]:
        blocks: Sequence[nn.Module] = backbone.blocks
        return blocks


@families("vit")
class ViT(IsotropicFamily):
    """DeiT (one token or two), DINOv2 with registers, CLIP, SigLIP, AIMv2, NaFlexViT without rotary embedding, hybrids.

    LayerScale, DropPath, qk-norm, gated and differential attention, any MLP, a norm before the blocks, any pooling, any
    image size, an attention mask. Tokens that the mask hides from all others are padding.
    """

    examples = (
        "vit_base_patch16_224",
        "deit3_base_patch16_224",
        "deit_base_distilled_patch16_224",
        "vit_base_patch14_reg4_dinov2",
        "vit_base_patch16_siglip_224",
        "vit_base_patch16_clip_224",
        "aimv2_large_patch14_224",
        "naflexvit_base_patch16_siglip",
    )
    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ATTENTION, "mlp": MLP, "layer": (*ATTENTION, *MLP)}
    norms: ClassVar[dict[str, str]] = {"attn": "norm1", "mlp": "norm2", "layer": "norm1"}
    backbones = (VisionTransformer, NaFlexVit)
    block = Block
    written_for: ClassVar[Written] = {Block: FORWARD, Attention: FORWARD, DiffAttention: FORWARD, **MLPS}

    def prompt_refusal(self, backbone: nn.Module) -> str | None:
        return None

    def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return out

    def attn(
        self, block: Any, x: Tensor, tokens: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        mask = None
        if attn_mask is not None or is_causal or tokens is not ALL_TOKENS:
            bias = attn_mask if tokens.bias is None else tokens.bias.unsqueeze(1).to(x.dtype)
            mask = mask_for(x, tokens, bias, is_causal)
        out: Tensor = block.drop_path1(block.ls1(block.attn(block.norm1(x), attn_mask=mask, is_causal=False)))
        return out

    def mlp_parts(self, block: Any) -> tuple[nn.LayerNorm, nn.Linear, nn.Linear, Tensor | None] | None:
        norm, mlp, scale = block.norm2, block.mlp, block.ls2
        exact = type(mlp) is Mlp and isinstance(mlp.norm, nn.Identity)
        if not exact or type(norm) not in {nn.LayerNorm, LayerNorm} or norm.bias is None:
            return None
        erf = type(mlp.act) is GELU or (type(mlp.act) is nn.GELU and mlp.act.approximate == "none")
        if not erf or type(mlp.fc1) is not nn.Linear or type(mlp.fc2) is not nn.Linear:
            return None
        if type(scale) not in {LayerScale, nn.Identity}:
            return None
        if not all(map(bare, (mlp, norm, mlp.fc1, mlp.act, mlp.fc2, scale, block.drop_path2))):
            return None
        return norm, mlp.fc1, mlp.fc2, scale.gamma if type(scale) is LayerScale else None

    def window_refusal(self, backbone: Any) -> str | None:
        if not isinstance(backbone, VisionTransformer):
            return super().window_refusal(backbone)
        if not isinstance(backbone.patch_drop, nn.Identity):
            return "it drops patches before its blocks (patch_drop_rate), and windows need every patch"
        return None

    def reduction_refusal(self, backbone: Any) -> str | None:
        return None if isinstance(backbone, VisionTransformer) else "its padding tokens cannot be merged or dropped"

    def reads_patches(self, backbone: Any) -> bool:
        return bool(backbone.global_pool != "token")

    def leading_read(self, backbone: Any) -> int | None:
        if not isinstance(backbone, VisionTransformer) or backbone.global_pool != "token" or backbone.attn_pool:
            return None
        counts = {VisionTransformer.forward_head: 1, VisionTransformerDistilled.forward_head: 2}
        return counts.get(type(backbone).forward_head)

    def keys_refusal(self, backbone: Any) -> str | None:
        kinds = {type(block.attn) for block in backbone.blocks} - {Attention}
        return f"{kinds.pop().__name__} has no one key for each token" if kinds else None

    def listen(self, block: Any) -> None:
        prepare(block.attn.k_norm)

    def attn_with_keys(self, block: Any, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        with captured() as keys:
            out = self.attn(block, x, tokens)
        return out, keys[0].detach().mean(1)

    def attention_refusal(self, backbone: Any) -> str | None:
        return class_token_refusal(backbone, (block.attn for block in backbone.blocks))

    def class_attention(
        self, block: Any, x: Tensor, prefix: int, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        mask = mask_for(x, ALL_TOKENS, attn_mask, is_causal)
        return class_row_of(block.attn, block.norm1(x), prefix, mask)


def class_row_of(attn: Any, y: Tensor, prefix: int, mask: Tensor | None) -> Tensor:
    """(B, P) float32: the class token's attention in timm's `Attention`, for its input y (B, N, C)."""
    width = attn.num_heads * attn.head_dim
    q = attn.q_norm(split_heads(outputs(attn.qkv, y[:, :1], 0, width), attn.num_heads))
    k = attn.k_norm(split_heads(outputs(attn.qkv, y, width, 2 * width), attn.num_heads))
    return class_row(q, k, attn.scale, prefix, mask)


def class_token_refusal(backbone: Any, attentions: Iterable[nn.Module]) -> str | None:
    """Why the class token's attention is not available from these modules; None if it is."""
    if not backbone.has_class_token:
        return NO_CLASS_TOKEN
    others = {type(attn).__name__ for attn in attentions if type(attn) is not Attention}
    return f"{others.pop()} has no one map of attention" if others else None
