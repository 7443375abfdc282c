"""`layer`: one dispatcher decides for the whole layer, one adapter in parallel with it (paper fig. 3d)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dyt.model.block import DynamicBlock, VariantSpec
from dyt.registry import variants


class LayerVariantSpec(VariantSpec):
    """`layer`: the whole layer is dispatched at once, with one adapter (paper, figure 3d)."""

    type: str = "layer"


@variants("layer")
class LayerVariant(DynamicBlock):
    """X' = X + M * (Layer(X, active only) - X) + Adapter(X)."""

    Spec = LayerVariantSpec
    dispatched = ("layer",)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x + self.dispatch("layer", x, x, *args, **kwargs)
