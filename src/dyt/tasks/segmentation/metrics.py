"""What is measured of predicted classes of pixels: mean intersection over union, pixel accuracy, and each class's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from dyt.heads.pixelwise import IGNORED
from dyt.tasks.base import Measure


class Overlap(Measure):
    """Of logits (B, K, h, w), brought to the masks' size, for labels (B, H, W), where 255 is left out.

    `miou`: the mean of the classes' intersection over union, taken over the whole split (as ADE20K's); classes that
    neither the masks nor the predictions have are left out of it. `pixel_accuracy`: the share of labelled pixels that
    are right. Both are None where no pixel has a label. `iou/<name>`: of a class; its number is added where several
    have the name.
    """

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        often = Counter(classes)
        self.names = [name if often[name] == 1 else f"{name} ({k})" for k, name in enumerate(classes)]
        self.confusion: Any = MulticlassConfusionMatrix(max(len(classes), 2), ignore_index=IGNORED).to(device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        outputs = outputs.float()
        if outputs.shape[2:] != targets.shape[1:]:
            outputs = F.interpolate(outputs, targets.shape[1:], mode="bilinear", align_corners=False)
        self.confusion.update(outputs.argmax(1), targets)

    def compute(self) -> dict[str, float | None]:
        table = self.confusion.compute().double()  # rows are labels, columns predictions
        right, union = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
        there = union > 0
        each = right / union.clamp_min(1)
        return {
            "miou": float(each[there].mean()) if there.any() else None,
            "pixel_accuracy": float(right.sum() / table.sum()) if there.any() else None,
            **{f"iou/{self.names[k]}": float(each[k]) for k in there.nonzero().flatten().tolist()},
        }
