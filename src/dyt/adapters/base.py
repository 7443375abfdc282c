"""Base of adapters: a small module whose output, the delta, is added at every token, active or not (paper eq. 1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from dyt.config.base import ComponentSpec
from dyt.registry import adapters


class AdapterSpec(ComponentSpec):
    """Base of the adapters' specs."""


class PlacedSpec(AdapterSpec):
    """Fields of an adapter whose place can be chosen; the defaults are the paper's."""

    placement: Literal["parallel", "sequential"] = "parallel"
    """Where the adapter stands. `parallel`: X + M Branch(X) + Adapter(X); `sequential`: Z + Adapter(Z), where
    Z = X + M Branch(X)."""
    input: Literal["block", "normalised"] = "block"
    """Which tokens the adapter reads. `block`: the branch's input as it is; `normalised`: the output of the branch's
    own norm."""


class Adapter(nn.Module, ABC):
    """Base of adapters: subclass, set `Spec`, implement `forward`, register with `@dyt.registry.adapters(name)`.

    A new adapter must add nothing (or exactly zero), so that training starts from the pretrained function.

    Args:
        spec: the component's own spec.
        dim: channels C of the tokens.
    """

    Spec: ClassVar[type[AdapterSpec]] = AdapterSpec

    def __init__(self, spec: AdapterSpec, dim: int) -> None:
        super().__init__()
        self.placement, self.input = getattr(spec, "placement", "parallel"), getattr(spec, "input", "block")

    @abstractmethod
    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor | None:
        """The delta (B, N, C) of the tokens x (B, N, C); None when nothing is added.

        `padding` (B, N) bool is True at padding tokens, for adapters that use whole images; None if there are none.
        """


adapters.accepts(Adapter, ComponentSpec)
