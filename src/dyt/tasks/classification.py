"""`classification`: one label for an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassStatScores

from dyt.errors import UnsupportedError
from dyt.model import DynamicModel
from dyt.tasks.base import Measure, Task
from dyt.tasks.data import Data, DataSpec, layout_of, open_data, open_split, split_name
from dyt.tasks.layouts import Split
from dyt.tasks.loading import Images, Preparation


class Accuracy(Measure):
    """Of logits (B, K) for labels (B,): `accuracy`, with more than five classes `accuracy_top5`, `accuracy_per_class`.

    The last is the mean over classes of the share of their images that is right, the custom for data whose classes
    differ in size; classes of which the split has no image are left out.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        tops = {"accuracy": 1} | ({"accuracy_top5": 5} if classes > 5 else {})
        self.metrics: dict[str, Any] = {
            name: MulticlassAccuracy(classes, top_k=k, average="micro").to(device) for name, k in tops.items()
        }
        # torchmetrics' own macro average takes a class without images as one that is always wrong, once it is predicted
        self.by_class: Any = MulticlassStatScores(classes, average=None).to(device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        for metric in self.metrics.values():
            metric.update(outputs.float(), targets)
        self.by_class.update(outputs.float(), targets)

    def compute(self) -> dict[str, float]:
        found = {name: float(metric.compute()) for name, metric in self.metrics.items()}
        right, images = self.by_class.compute().double().unbind(-1)[0::4]  # true positives, support
        return found | {"accuracy_per_class": float((right / images)[images > 0].mean())}


class Classification(Task):
    """Images and labels."""

    name: ClassVar[str] = "classification"
    head: ClassVar[str] = "classifier"
    Spec: ClassVar[type[Any]] = DataSpec

    def check(self, model: DynamicModel, spec: DataSpec) -> None:
        super().check(model, spec)
        channels = Preparation.of(model.backbone).channels
        if channels not in {1, 3} and spec.augment == "timm":
            raise UnsupportedError(
                f"data.augment: timm takes images of 1 or 3 channels, the model {channels}; use none or crop"
            )

    def open(self, spec: DataSpec) -> Data:
        return open_data(spec)

    def open_split(self, spec: DataSpec, split: str | None, classes: Sequence[str]) -> Split:
        return open_split(spec, split, classes)

    def training_split(self, spec: DataSpec) -> str:
        return split_name(spec, training=True)

    def named(self, spec: DataSpec, split: str | None) -> tuple[str, ...] | None:
        return layout_of(spec).classes(Path(spec.root), split or split_name(spec, training=False))

    def examples(self, spec: DataSpec, split: Split, preparation: Preparation, training: bool) -> Images:
        return Images(split, spec, preparation, training)

    def measure(self, classes: Sequence[str], device: torch.device) -> Measure:
        return Accuracy(len(classes), device)
