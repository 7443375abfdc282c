"""`vit`: timm's `vision_transformer.VisionTransformer` with its plain pre-norm `Block`, in all its configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dyt.families.base import Family
from dyt.registry import families
from dyt.route import Tokens

ATTENTION = ("norm1", "attn", "ls1", "drop_path1")
MLP = ("norm2", "mlp", "ls2", "drop_path2")


@families("vit")
class ViT(Family):
    """With LayerScale, DropPath, qk-norm, any MLP, pre-norm stem, prefix tokens, pooling and dynamic image size."""

    children: ClassVar[dict[str, Sequence[str]]] = {"attn": ATTENTION, "mlp": MLP, "layer": (*ATTENTION, *MLP)}
    norms: ClassVar[dict[str, str]] = {"attn": "norm1", "mlp": "norm2", "layer": "norm1"}

    def matches(self, backbone: nn.Module) -> bool:
        return isinstance(backbone, VisionTransformer) and all(
            isinstance(block, Block) and type(block).forward is Block.forward for block in backbone.blocks
        )

    def blocks(self, backbone: nn.Module) -> Sequence[str]:
        assert isinstance(backbone, VisionTransformer)
        return [f"blocks.{i}" for i in range(len(backbone.blocks))]

    def dim(self, backbone: nn.Module, block: nn.Module) -> int:
        assert isinstance(backbone, VisionTransformer)
        return backbone.embed_dim

    def prefix_tokens(self, backbone: nn.Module) -> int:
        assert isinstance(backbone, VisionTransformer)
        return backbone.num_prefix_tokens

    def prompt_refusal(self, backbone: nn.Module) -> str | None:
        return None

    def mlp(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(x))))  # type: ignore[operator]
        return out

    def attn(
        self, block: nn.Module, x: Tensor, tokens: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        sees = tokens.sees()
        if sees is None and tokens.index is None:
            mask = attn_mask
        elif is_causal or attn_mask is not None:
            raise ValueError("attention dispatch does not combine with attn_mask or is_causal; use the mlp variant")
        else:
            mask, is_causal = sees, False
        attended = block.attn(block.norm1(x), attn_mask=mask, is_causal=is_causal)  # type: ignore[operator]
        out: Tensor = block.drop_path1(block.ls1(attended))  # type: ignore[operator]
        return out
