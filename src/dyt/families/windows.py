"""Shared base of Swin and Swin V2: stages of blocks, tokens as a (B, H, W, C) map, attention within windows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from dyt.core.route import Tokens
from dyt.families.base import Family

WINDOWED = (
    "its attention works within windows that hold all of their tokens (shifts, masks and position biases are made "
    "for whole windows), and active tokens alone make none; use the mlp variant"
)


class Windows(Family):
    """Base: a family per block class. Only the MLP can be dispatched; each stage has a quarter of the tokens."""

    children: ClassVar[dict[str, Sequence[str]]] = {"mlp": ("norm2", "mlp", "drop_path2")}
    model: ClassVar[type[SwinTransformer] | type[SwinTransformerV2]]
    block: ClassVar[type[nn.Module]]

    def matches(self, backbone: nn.Module) -> bool:
        return isinstance(backbone, self.model) and all(
            isinstance(block, self.block) and type(block).forward is self.block.forward
            for stage in backbone.layers.children()
            for block in stage.get_submodule("blocks").children()
        )

    def blocks(self, backbone: nn.Module) -> Sequence[str]:
        assert isinstance(backbone, self.model)
        return [
            f"layers.{i}.blocks.{j}"
            for i, stage in enumerate(backbone.layers.children())
            for j, _ in enumerate(stage.get_submodule("blocks").children())
        ]

    def dim(self, backbone: nn.Module, block: nn.Module) -> int:
        dim = block.dim
        assert isinstance(dim, int)
        return dim

    def prefix_tokens(self, backbone: nn.Module) -> int:
        return 0

    def refusal(self, backbone: nn.Module, branch: str) -> str | None:
        return None if branch in self.children else WINDOWED

    def attention_refusal(self, backbone: nn.Module) -> str | None:
        return "it has no class token"

    @abstractmethod
    def attn(self, block: nn.Module, x: Tensor, tokens: Tokens, *args: Any, **kwargs: Any) -> Tensor:
        """The attention branch of the whole map x (B, H, W, C)."""
