"""Shared base for families of plain vision transformers: one stack of equal blocks on tokens (B, N, C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dyt.families.attention import unseen
from dyt.families.base import Family


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
        methods = ("forward", "forward_features")
        return isinstance(backbone, VisionTransformer) and all(
            getattr(type(backbone), name) is getattr(VisionTransformer, name) for name in methods
        )

    def padding(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        """The tokens that the backbone's attention mask hides from all others (NaFlexViT's padding)."""
        return unseen(x, kwargs.get("attn_mask"))

    def _blocks(self, backbone: Any) -> Sequence[nn.Module]:
        found: Sequence[nn.Module] = backbone.blocks
        return found
