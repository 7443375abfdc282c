"""`classification`: one label for an image, or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassStatScores, MultilabelAveragePrecision
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat

from dyt.errors import UnsupportedError
from dyt.model.dynamic import DynamicModel
from dyt.tasks.base import Measure, Task
from dyt.tasks.data import Data, DataSpec, classes_of, open_data, open_split, split_name
from dyt.tasks.layouts import Split
from dyt.tasks.loading import Images
from dyt.tasks.preparation import Preparation


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
        accuracies = {name: float(metric.compute()) for name, metric in self.metrics.items()}
        right, images = self.by_class.compute().double().unbind(-1)[0::4]  # true positives, support
        return accuracies | {"accuracy_per_class": float((right / images)[images > 0].mean())}


class _ByClass(MultilabelAveragePrecision):
    """torchmetrics' own, which keeps and joins what all processes saw, but for classes of which no image is there."""

    def compute(self) -> Tensor:  # type: ignore[override]  # as torchmetrics' own measures of it do
        """(K,), nan for those: torchmetrics would give them a number, and warn."""
        outputs, targets = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        each = [
            binary_average_precision(outputs[:, k], targets[:, k]) if targets[:, k].any() else outputs.new_tensor(nan)
            for k in range(outputs.shape[1])
        ]
        return torch.stack([value for value in each if value is not None])


class LabelPrecision(Measure):
    """Of logits (B, K) for labels (B, K): `map`, the mean over classes of the average precision of their ranking.

    Classes of which the split has no image have none, and are left out.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self.metric: Any = _ByClass(classes, average=None).to(device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.metric.update(outputs.float().sigmoid(), targets.long())

    def compute(self) -> dict[str, float]:
        each = self.metric.compute().double()
        there = each.isfinite()
        return {"map": float(each[there].mean()) if there.any() else 0.0}


class Labels(Measure):
    """`Accuracy` where images have one label, `LabelPrecision` where they may have several: the first batch tells."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes, self.device = classes, device
        self.measure: Measure | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if self.measure is None:
            kind = LabelPrecision if targets.ndim == 2 else Accuracy
            self.measure = kind(self.classes, self.device)
        self.measure.update(outputs, targets)

    def compute(self) -> Mapping[str, float | None]:
        return {} if self.measure is None else self.measure.compute()


class Classification(Task):
    """Images and labels, one each or several."""

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
        return classes_of(spec, split or split_name(spec, training=False))

    def examples(self, spec: DataSpec, split: Split, preparation: Preparation, training: bool) -> Images:
        return Images(split, spec, preparation, training)

    def measure(self, classes: Sequence[str], device: torch.device) -> Measure:
        return Labels(len(classes), device)
