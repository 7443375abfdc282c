"""x -> delta on every token: one file per adapter."""

from dyt.adapters.base import Adapter, AdapterSpec, PlacedSpec
from dyt.adapters.bottleneck import Bottleneck, BottleneckSpec
from dyt.adapters.none import NoAdapter, NoAdapterSpec

__all__ = ["Adapter", "AdapterSpec", "Bottleneck", "BottleneckSpec", "NoAdapter", "NoAdapterSpec", "PlacedSpec"]
