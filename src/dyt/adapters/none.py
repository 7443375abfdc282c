"""`none`: no adapter. With dispatcher `always` only the head is trained: a linear probe."""

from __future__ import annotations

from torch import Tensor

from dyt.adapters.base import Adapter, AdapterSpec
from dyt.registry import adapters


class NoAdapterSpec(AdapterSpec):
    """`none`: no adapter."""

    type: str = "none"


@adapters("none")
class NoAdapter(Adapter):
    """Adds nothing."""

    Spec = NoAdapterSpec

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor | None:
        return None
