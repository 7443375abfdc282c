"""`mlp`: attention sees every token, the MLP is dispatched (paper fig. 3b, table 1's best and the default)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dyt.model.block import DynamicBlock, VariantSpec
from dyt.registry import variants


class MLPVariantSpec(VariantSpec):
    """`mlp`: attention sees every token, the MLP is dispatched (paper, figure 3b)."""

    type: str = "mlp"


@variants("mlp")
class MLPVariant(DynamicBlock):
    """X' = X + Attn(X);  X'' = X' + M * MLP(X') + Adapter(X')."""

    Spec = MLPVariantSpec
    dispatched = ("mlp",)
    reduces = True

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        x = self.enter(x, *args, **kwargs)
        after, read = self.whole_attention(x, *args, **kwargs)
        return self.leave(after + self.dispatch("mlp", read, x, *args, **kwargs))
