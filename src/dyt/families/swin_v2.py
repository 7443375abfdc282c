"""`swin_v2`: timm's `swin_transformer_v2.SwinTransformerV2`."""

from __future__ import annotations

from typing import Any, ClassVar

from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from torch import Tensor, nn

from dyt.core.offloading import at_hand
from dyt.core.route import Tokens
from dyt.families.base import Written
from dyt.families.timm_mlps import MLPS
from dyt.families.windows import Windows
from dyt.registry import families


@families("swin_v2")
class SwinV2(Windows):
    """Blocks that normalise the output of a branch instead of its input, so `norms` has no entries."""

    examples = ("swinv2_base_window8_256",)
    model = SwinTransformerV2
    block = SwinTransformerV2Block
    written_for: ClassVar[Written] = {SwinTransformerV2Block: ("forward", "_attn"), **MLPS}

    def mlp(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path2(block.norm2(block.mlp(x)))  # type: ignore[operator]
        return out

    def attn(self, block: nn.Module, x: Tensor, tokens: Tokens, *args: Any, **kwargs: Any) -> Tensor:
        with at_hand(block.attn.qkv):  # type: ignore[arg-type, union-attr]  # whose weight timm reads without a call
            out: Tensor = block.drop_path1(block.norm1(block._attn(x)))  # type: ignore[operator]
        return out
