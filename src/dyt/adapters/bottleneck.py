"""`bottleneck`: Adapter(X) = s * up(relu(down(X))) (paper eq. 1), with the released code's scale, dropout and start."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.adapters.base import Adapter, PlacedSpec
from dyt.registry import adapters


class BottleneckSpec(PlacedSpec):
    """`bottleneck`. `dim`: the bottleneck d (64 by default, 8 on VTAB-1K). `scale`: s. `dropout`: on the hidden units.

    The defaults are the released code's.
    """

    type: str = "bottleneck"
    dim: Annotated[int, Field(ge=1)] = 64
    scale: float = 0.1
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1


@adapters("bottleneck")
class Bottleneck(Adapter):
    """down: C -> d, up: d -> C, both with bias; up starts at zero, so that a fresh adapter adds exactly zero."""

    Spec = BottleneckSpec

    def __init__(self, spec: BottleneckSpec, dim: int) -> None:
        super().__init__(spec, dim)
        self.scale = spec.scale
        self.down = nn.Linear(dim, spec.dim)
        self.up = nn.Linear(spec.dim, dim)
        self.dropout = nn.Dropout(spec.dropout)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        delta: Tensor = self.up(self.dropout(F.relu(self.down(x))))
        return delta * self.scale
