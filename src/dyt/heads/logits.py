"""What heads that give one class for each input have in common."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

from torch import Tensor

from dyt.heads.base import Head
from dyt.heads.terms import classification, distillation


class LogitsHead(Head, ABC):
    """A head of logits (B, K), trained with labels (B,) or soft ones (B, K)."""

    soft_labels: ClassVar[bool] = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return classification(outputs, targets)

    def divergence(self, complete: Tensor, dynamic: Tensor, temperature: float) -> Tensor:
        return distillation(complete, dynamic, temperature)

    def tally(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        return (outputs.argmax(1) == labels).sum(), len(labels)
