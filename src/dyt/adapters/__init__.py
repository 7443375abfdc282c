"""Adapters: a small module whose output is added at every token. One file per adapter."""

from dyt.adapters.base import Adapter, AdapterSpec, PlacedSpec
from dyt.adapters.bottleneck import Bottleneck, BottleneckSpec
from dyt.adapters.low_rank import LowRank, LowRankSpec
from dyt.adapters.moe import MoE, MoESpec
from dyt.adapters.none import NoAdapter, NoAdapterSpec
from dyt.adapters.projection import Projection, ProjectionSpec

__all__ = [
    "Adapter",
    "AdapterSpec",
    "Bottleneck",
    "BottleneckSpec",
    "LowRank",
    "LowRankSpec",
    "MoE",
    "MoESpec",
    "NoAdapter",
    "NoAdapterSpec",
    "PlacedSpec",
    "Projection",
    "ProjectionSpec",
]
