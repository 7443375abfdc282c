"""What a table of tiny backbones holds, one row for each configuration of a family's real classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from laws.models import CLASSES

EVERY = ("attn", "attn_mlp", "layer", "mlp")
"""All variants, sorted."""


@dataclass(frozen=True)
class Tiny:
    """A tiny backbone and what the library is expected to say of it.

    `make`: the plain model with the asked drop path and dropout (where it has them), CLASSES outputs. `mlp`: the child
    of a block whose output is the MLP branch's, up to a factor per channel. `attn`: that of the attention branch.
    """

    family: str
    make: Callable[[float], nn.Module]
    prefix: int
    variants: tuple[str, ...]
    size: tuple[int, int] = (32, 32)
    mlp: str = "mlp"
    attn: str = "attn"

    def backbone(self, noise: float = 0.0, seed: int = 0) -> nn.Module:
        """In eval mode, every parameter random, so that no branch is trivially zero or one."""
        torch.manual_seed(seed)
        model = self.make(noise)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model.eval()

    def images(self, batch: int = 3) -> Tensor:
        """(batch, 3, H, W)."""
        return torch.randn(batch, 3, *self.size, generator=torch.Generator().manual_seed(1))


def labels(batch: int = 3) -> Tensor:
    """(batch,) int64."""
    return torch.arange(batch) % CLASSES
