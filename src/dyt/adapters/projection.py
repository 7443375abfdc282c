"""Shared base of adapters with a down and an up projection: s * up(dropout(act(down(X)))) (paper eq. 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from timm.layers import get_act_fn  # type: ignore[attr-defined]
from torch import Tensor, nn

from dyt.adapters.base import Adapter, AdapterSpec, PlacedSpec
from dyt.core.draws import Dropout

Activation = Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "mish", "elu", "leaky_relu", "tanh"]
"""timm's names of activations."""


class ProjectionSpec(PlacedSpec):
    """Fields of an adapter with down and up projections; the defaults are the released code's."""

    dim: Annotated[int, Field(ge=1, le=8192)] = 64
    """Hidden units d between down and up projection, for `moe` of each expert; 64 in the paper, 8 on VTAB-1K, 1 to 256
    in its table 8."""
    activation: Activation = "relu"
    """Activation function between down and up projection, by timm's name."""
    scale: float = 0.1
    """Factor s on the adapter's output; its value at the start where `scale_learnable` is set."""
    scale_learnable: bool = False
    """Whether `scale` is trained, one number per adapter; it must then not start at 0."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Probability with which a hidden unit is dropped in training."""

    @model_validator(mode="after")
    def _learns(self) -> ProjectionSpec:
        if self.scale_learnable and self.scale == 0:
            raise ValueError("a learnable scale must not start at 0: up is 0 as well, and neither would get a gradient")
        return self


def down_and_up(dim: int, hidden: int) -> tuple[nn.Linear, nn.Linear]:
    """Linear maps C -> d and d -> C, initialised as in the released code: up starts at zero, so they add nothing."""
    down, up = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
    nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
    for zero in (down.bias, up.weight, up.bias):
        nn.init.zeros_(zero)
    return down, up


class Projection(Adapter):
    """Base of these adapters: subclass it with two projections, of which up starts at zero.

    Attributes:
        scale: s, a number, or a parameter () when it is learned.
    """

    def __init__(self, spec: AdapterSpec, dim: int) -> None:
        super().__init__(spec, dim)
        assert isinstance(spec, ProjectionSpec)
        self.scale = nn.Parameter(torch.tensor(spec.scale)) if spec.scale_learnable else spec.scale
        self.activation: Callable[[Tensor], Tensor] = get_act_fn(spec.activation)
        self.dropout = Dropout(spec.dropout)

    def delta(self, x: Tensor, down: Callable[[Tensor], Tensor], up: Callable[[Tensor], Tensor]) -> Tensor:
        """The delta (B, N, C) of x (B, N, C), for projections down to (B, N, d) and up from it."""
        hidden = self.activation(down(x))
        delta: Tensor = up(self.dropout(hidden) if self.dropout.training else hidden) * self.scale
        return delta
