"""`swin`: timm's `swin_transformer.SwinTransformer`, in all its sizes, window sizes and image sizes."""

from __future__ import annotations

from typing import Any, ClassVar

from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from dyt.core.route import Tokens
from dyt.families.base import Written
from dyt.families.timm_mlps import MLPS
from dyt.families.windows import Windows
from dyt.registry import families


@families("swin")
class Swin(Windows):
    """Pre-norm blocks (the paper's Swin-B with the MLP variant)."""

    examples = ("swin_base_patch4_window7_224",)
    model = SwinTransformer
    block = SwinTransformerBlock
    written_for: ClassVar[Written] = {SwinTransformerBlock: ("forward", "_attn"), **MLPS}
    norms: ClassVar[dict[str, str]] = {"mlp": "norm2"}

    def mlp(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path2(block.mlp(block.norm2(x)))  # type: ignore[operator]
        return out

    def attn(self, block: nn.Module, x: Tensor, tokens: Tokens, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path1(block._attn(block.norm1(x)))  # type: ignore[operator]
        return out
