"""`classifier`: the backbone's own, as timm has it."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from dyt.heads.logits import LogitsHead
from dyt.registry import heads
from dyt.spec import HeadSpec


@heads("classifier")
class Classifier(LogitsHead):
    """Logits (B, K) for labels (B,) int64, or soft (B, K). It has no parameters: the classifier is the backbone's."""

    Spec: ClassVar[type[HeadSpec]] = HeadSpec
    task: ClassVar[str] = "classification"
    shares_stem: ClassVar[bool] = True

    def forward(self, backbone: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        logits: Tensor = backbone(images, *args, **kwargs)
        return logits
