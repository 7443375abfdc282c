"""`low_rank`: Adapter(X) = up(down(X)), the bottleneck without its activation: a linear map of low rank."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from dyt.adapters.base import Adapter, AdapterSpec, PlacedSpec
from dyt.adapters.projection import down_and_up
from dyt.registry import adapters


class LowRankSpec(PlacedSpec):
    """`low_rank`: a linear map of low rank; what a `stand_in` is started as in closed form."""

    type: str = "low_rank"
    dim: Annotated[int, Field(ge=1, le=8192)] = 8
    """Rank of the map: units d between down and up projection."""


@adapters("low_rank")
class LowRank(Adapter):
    """down: C -> d, up: d -> C, both with bias, nothing between; up starts at zero, so a new one adds exactly zero."""

    Spec = LowRankSpec

    def __init__(self, spec: AdapterSpec, dim: int) -> None:
        super().__init__(spec, dim)
        assert isinstance(spec, LowRankSpec)
        self.down, self.up = down_and_up(dim, spec.dim)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        delta: Tensor = self.up(self.down(x))
        return delta
