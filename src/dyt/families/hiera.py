"""`hiera`: timm's `hiera.Hiera`, whose attention pools its queries: fewer and wider tokens after it than before."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import torch
from timm.models.hiera import Hiera as TimmHiera
from timm.models.hiera import HieraBlock
from torch import Tensor, nn

from dyt.core.route import Tokens
from dyt.families.base import Family, Written
from dyt.families.timm_mlps import FORWARD, MLPS
from dyt.registry import families


@families("hiera")
class Hiera(Family):
    """The MLP alone can be dispatched. Tokens are in the order in which mask units lie together, not row by row."""

    examples = ("hiera_base_224",)
    children: ClassVar[dict[str, Sequence[str]]] = {"mlp": ("norm2", "mlp", "ls2", "drop_path2")}
    norms: ClassVar[dict[str, str]] = {"mlp": "norm2"}
    written_for: ClassVar[Written] = {HieraBlock: FORWARD, **MLPS}

    def matches(self, backbone: nn.Module) -> bool:
        return isinstance(backbone, TimmHiera) and all(
            isinstance(block, HieraBlock) and type(block).forward is HieraBlock.forward for block in backbone.blocks
        )

    def blocks(self, backbone: nn.Module) -> Sequence[str]:
        assert isinstance(backbone, TimmHiera)
        return [f"blocks.{i}" for i in range(len(backbone.blocks))]

    def dim(self, backbone: nn.Module, block: nn.Module) -> int:
        dim = block.dim_out
        assert isinstance(dim, int)
        return dim

    def prefix_tokens(self, backbone: nn.Module) -> int:
        return 0

    def refusal(self, backbone: nn.Module, branch: str) -> str | None:
        if branch in self.children:
            return None
        return (
            "its attention works within mask units and pools queries over neighbours, both of which need every token "
            "of a unit; use the mlp variant"
        )

    def attention_refusal(self, backbone: nn.Module) -> str | None:
        return "it has no class token"

    def raster(self, backbone: nn.Module, path: str) -> Tensor | None:
        assert isinstance(backbone, TimmHiera)
        index = int(path.rpartition(".")[2])
        tokens = torch.arange(prod(backbone.reroll.schedule[index][1]), device="cpu")
        order: Tensor = backbone.reroll(tokens[None, :, None], index)
        return order.flatten()

    def mlp(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(x))))  # type: ignore[operator]
        return out

    def attn(self, block: nn.Module, x: Tensor, tokens: Tokens, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path1(block.ls1(block.attn(block.norm1(x))))  # type: ignore[operator]
        return out

    def attend(self, block: nn.Module, x: Tensor, branch: Tensor) -> Tensor:
        """The shortcut is pooled and widened as the branch is, by a linear map of normalised tokens or none."""
        if not block.do_expand:
            return x + branch
        widened: Tensor = x if block.proj is None else block.proj(block.norm1(x))  # type: ignore[operator]
        groups = widened.reshape(len(x), -1, branch.shape[1], widened.shape[-1])
        pooled = groups.amax(1)
        return branch + (torch.cat([pooled, groups.mean(1)], -1) if block.proj is None else pooled)
