"""`attn_mlp`: a dispatcher and an adapter on each of attention and MLP (paper fig. 3c)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dyt.model.block import DynamicBlock, VariantSpec
from dyt.registry import variants


class AttentionMLPVariantSpec(VariantSpec):
    """`attn_mlp`: attention and MLP are dispatched, each with a dispatcher and an adapter (paper, figure 3c)."""

    type: str = "attn_mlp"


@variants("attn_mlp")
class AttentionMLPVariant(DynamicBlock):
    """X' = X + M1 * Attn(X, active only) + Adapter1(X);  X'' = X' + M2 * MLP(X') + Adapter2(X')."""

    Spec = AttentionMLPVariantSpec
    dispatched = ("attn", "mlp")

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        after, read = self.attended(x, self.dispatch("attn", x, x, *args, **kwargs))
        return after + self.dispatch("mlp", read, x, *args, **kwargs)
