"""`bottleneck`: Adapter(X) = s * up(relu(down(X))) (paper eq. 1), with the released code's scale, dropout and start."""

from __future__ import annotations

import math

from torch import Tensor, nn

from dyt.adapters.projection import Projection, ProjectionSpec
from dyt.registry import adapters


class BottleneckSpec(ProjectionSpec):
    """`bottleneck`, with the fields that every adapter with down and up projections has."""

    type: str = "bottleneck"


@adapters("bottleneck")
class Bottleneck(Projection):
    """down: C -> d, up: d -> C, both with bias; up starts at zero, so that a fresh adapter adds exactly zero."""

    Spec = BottleneckSpec

    def __init__(self, spec: BottleneckSpec, dim: int) -> None:
        super().__init__(spec, dim)
        self.down = nn.Linear(dim, spec.dim)
        self.up = nn.Linear(spec.dim, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        delta: Tensor = self.up(self.dropout(self.activation(self.down(x)))) * self.scale
        return delta
