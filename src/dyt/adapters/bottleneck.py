"""`bottleneck`: Adapter(X) = s * up(relu(down(X))) (paper eq. 1), initialised as in the released code."""

from __future__ import annotations

from torch import Tensor

from dyt.adapters.projection import Projection, ProjectionSpec, down_and_up
from dyt.registry import adapters


class BottleneckSpec(ProjectionSpec):
    """`bottleneck`: the paper's adapter (eq. 1)."""

    type: str = "bottleneck"


@adapters("bottleneck")
class Bottleneck(Projection):
    """down: C -> d, up: d -> C, both with bias; up starts at zero, so a new adapter adds exactly zero."""

    Spec = BottleneckSpec

    def __init__(self, spec: BottleneckSpec, dim: int) -> None:
        super().__init__(spec, dim)
        self.down, self.up = down_and_up(dim, spec.dim)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        hidden = self.activation(self.down(x))
        delta: Tensor = self.up(self.dropout(hidden) if self.dropout.training else hidden) * self.scale
        return delta
