"""The MLP branch, which its executor gives active rows alone: norm and all are computed for those."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import GELU, LayerNorm, Mlp  # type: ignore[attr-defined]
from torch import Tensor, nn

from dyt.core.execution import MLPBranch
from dyt.inference.rewrites.products import add_linear, add_linear_, is_linear, scaled, scales

GELUS = {nn.GELU, GELU}
"""Activations that torch can also compute in place."""


class FusedMlp(nn.Module):
    """ls2(mlp(norm2(x))) of timm's block with LayerScale in the last product, which accumulates onto the stream.

    Args:
        block: a block of timm's for which `refusal` is None; its modules are taken over.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        mlp = block.mlp
        self.norm, self.fc1, self.act, self.mid = block.norm2, mlp.fc1, mlp.act, mlp.norm
        self.gelu = getattr(self.act, "approximate", "none") if type(self.act) in GELUS else None
        self.fc2 = scaled(mlp.fc2, block.ls2)

    @staticmethod
    def refusal(block: Any) -> str | None:
        """Why this block's MLP is not rewritten; None when it is."""
        if type(block.mlp) is not Mlp:
            return f"its MLP is a {type(block.mlp).__name__}"
        if not (is_linear(block.mlp.fc1) and is_linear(block.mlp.fc2) and scales(block.ls2)):
            return "another library's modules are in its MLP"
        return None

    def hidden(self, x: Tensor) -> Tensor:
        """What the last product is given."""
        up: Tensor = self.fc1(self.norm(x))
        # nobody else sees what fc1 gave; a backward pass would
        up = self.act(up) if self.gelu is None or up.requires_grad else torch.ops.aten.gelu_(up, approximate=self.gelu)
        out: Tensor = self.mid(up)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """The branch of x (..., C)."""
        out: Tensor = self.fc2(self.hidden(x))
        return out

    @property
    def parts(self) -> MLPBranch | None:
        """Its modules, where they are LayerNorm, Linear, GELU by erf, Linear, and nothing between."""
        exact = self.gelu == "none" and isinstance(self.mid, nn.Identity)
        if not exact or type(self.norm) not in {nn.LayerNorm, LayerNorm} or self.norm.bias is None:
            return None
        return MLPBranch(self, self.norm, self.fc1, self.fc2)

    def onto(self, x: Tensor, out: Tensor) -> Tensor:
        """out + branch(x); `out` may be overwritten, unless it is x."""
        return (add_linear if out is x else add_linear_)(out, self.hidden(x), self.fc2)


class KeptMlp(nn.Module):
    """The branch as the block has it, whatever its MLP is."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm2, self.mlp, self.ls2 = block.norm2, block.mlp, block.ls2

    def forward(self, x: Tensor) -> Tensor:
        """The branch of x (..., C)."""
        out: Tensor = self.ls2(self.mlp(self.norm2(x)))
        return out

    parts = None
    """No kernels know it."""

    def onto(self, x: Tensor, out: Tensor) -> Tensor:
        """out + branch(x)."""
        added: Tensor = out + self(x)
        return added
