"""What every adapter is: a small module whose delta is added on every token, active or not (paper eq. 1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from dyt.registry import adapters
from dyt.slots import ComponentSpec


class AdapterSpec(ComponentSpec):
    """Base of the adapters' specs."""


class Adapter(nn.Module, ABC):
    """Base of adapters: subclass, set `Spec`, implement `forward`, register with `@dyt.registry.adapters(name)`.

    A fresh adapter must add nothing (or exactly zero), so that training starts from the pretrained function.

    Args:
        spec: the component's own spec.
        dim: channels C of the tokens.
    """

    Spec: ClassVar[type[AdapterSpec]] = AdapterSpec

    def __init__(self, spec: AdapterSpec, dim: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor | None:
        """The delta (B, N, C) of the un-normalised branch input x (B, N, C); None when nothing is added."""


adapters.accepts(Adapter)
