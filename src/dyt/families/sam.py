"""`sam`: timm's `VisionTransformerSAM` (SAM and ViTDet), with windows, relative positions or rope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models.vision_transformer_sam import Block, VisionTransformerSAM, window_partition, window_unpartition
from torch import Tensor, nn

from dyt.core.route import Tokens
from dyt.families.base import Family, Written
from dyt.families.timm_mlps import FORWARD, MLPS
from dyt.registry import families


@families("sam")
class SAM(Family):
    """Tokens as a (B, H, W, C) map of one size throughout; most blocks attend within windows. MLP variant only."""

    examples = ("samvit_base_patch16",)
    children: ClassVar[dict[str, Sequence[str]]] = {"mlp": ("norm2", "mlp", "ls2", "drop_path2")}
    norms: ClassVar[dict[str, str]] = {"mlp": "norm2"}
    written_for: ClassVar[Written] = {Block: FORWARD, **MLPS}

    def matches(self, backbone: nn.Module) -> bool:
        return isinstance(backbone, VisionTransformerSAM) and all(
            isinstance(block, Block) and type(block).forward is Block.forward for block in backbone.blocks
        )

    def blocks(self, backbone: nn.Module) -> Sequence[str]:
        assert isinstance(backbone, VisionTransformerSAM)
        return [f"blocks.{i}" for i in range(len(backbone.blocks))]

    def dim(self, backbone: nn.Module, block: nn.Module) -> int:
        assert isinstance(backbone, VisionTransformerSAM)
        return backbone.embed_dim

    def prefix_tokens(self, backbone: nn.Module) -> int:
        return 0

    def refusal(self, backbone: nn.Module, branch: str) -> str | None:
        if branch in self.children:
            return None
        return (
            "its attention computes positions from a whole map or window of tokens, row by row, and active tokens "
            "alone make none; use the mlp variant"
        )

    def attention_refusal(self, backbone: nn.Module) -> str | None:
        return "it has no class token"

    def mlp(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(x))))  # type: ignore[operator]
        return out

    def attn(self, block: nn.Module, x: Tensor, tokens: Tokens, *args: Any, **kwargs: Any) -> Tensor:
        size, window = (x.shape[1], x.shape[2]), block.window_size
        assert isinstance(window, int)
        y, padded = block.norm1(x), None  # type: ignore[operator]
        if window:
            y, padded = window_partition(y, window)
        y = block.drop_path1(block.ls1(block.attn(y)))  # type: ignore[operator]
        out: Tensor = window_unpartition(y, window, size, padded) if window else y
        return out
