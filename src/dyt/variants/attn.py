"""`attn`: attention among the active tokens only, the MLP sees every token (paper fig. 3a)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dyt.model.block import DynamicBlock, VariantSpec
from dyt.registry import variants


class AttentionVariantSpec(VariantSpec):
    """`attn`: attention among the active tokens only, the MLP sees every token (paper, figure 3a)."""

    type: str = "attn"


@variants("attn")
class AttentionVariant(DynamicBlock):
    """X' = X + M * Attn(X, active only) + Adapter(X);  X'' = X' + MLP(X')."""

    Spec = AttentionVariantSpec
    dispatched = ("attn",)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        after, read = self.attended(x, self.dispatch("attn", x, x, *args, **kwargs))
        return after + self.branch("mlp", read, *args, **kwargs)
