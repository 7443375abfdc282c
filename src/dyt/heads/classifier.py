"""`classifier`: the backbone's own, as timm has it."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from dyt.heads.base import Head
from dyt.heads.terms import classification, distillation
from dyt.registry import heads
from dyt.spec import HeadSpec


@heads("classifier")
class Classifier(Head):
    """Logits (B, K) for labels (B,) int64, or soft (B, K). It has no parameters: the classifier is the backbone's."""

    Spec: ClassVar[type[HeadSpec]] = HeadSpec
    task: ClassVar[str] = "classification"
    shares_stem: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True

    def forward(self, backbone: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        logits: Tensor = backbone(images, *args, **kwargs)
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return classification(outputs, targets)

    def divergence(self, complete: Tensor, dynamic: Tensor, temperature: float) -> Tensor:
        return distillation(complete, dynamic, temperature)

    def tally(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        return (outputs.argmax(1) == labels).sum(), len(labels)
