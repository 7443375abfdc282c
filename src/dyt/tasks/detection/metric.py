"""COCO's average precision, by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection.roi_heads import paste_masks_in_image

from dyt.tasks.base import Measure

NAMES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")


class AveragePrecision(Measure):
    """`map` (mean over overlaps from 0.5 to 0.95), `map_50`, `map_75`, and by size of the objects; -1 where there are
    none. Of detections with masks also `mask_map` and so on. In pixels of the images as they lie on disk. What it keeps
    of the images is on the CPU, where it is computed.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}

    def update(self, outputs: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]]) -> None:
        found = [in_original(one, target) for one, target in zip(outputs, targets, strict=True)]
        kinds = ("bbox", "segm") if all("masks" in one for one in (*found, *targets)) else ("bbox",)
        for kind in kinds:
            if kind not in self.metrics:
                made = MeanAveragePrecision(
                    box_format="xyxy", iou_type=cast(Literal["bbox", "segm"], kind), sync_on_compute=False
                )
                made.warn_on_many_detections = False  # COCO's own measure takes the best hundred, silently
                self.metrics[kind] = made
            shape = "boxes" if kind == "bbox" else "masks"
            self.metrics[kind].update(
                [{name: one[name].cpu() for name in (shape, "scores", "labels")} for one in found],
                [{name: target[name].cpu() for name in (shape, "labels", "iscrowd", "area")} for target in targets],
            )

    def compute(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for kind, metric in self.metrics.items():
            _joined(metric)
            values = metric.compute()
            prefix = "" if kind == "bbox" else "mask_"
            found |= {f"{prefix}{name}": float(values[name]) for name in NAMES}
        return found


def _joined(metric: MeanAveragePrecision) -> None:
    """Gives the metric what those of all processes have seen; its own way to do so asks for equally many images."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, metric.metric_state)
    for name in every[0]:
        setattr(metric, name, [seen for each in every for seen in each[name]])


def in_original(found: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detections in pixels of the image as it lies on disk: `size` and `scale` of the target say how.

    Boxes are cut to it, what lay in the padding alone is left out; masks become (n, H, W) bool.
    """
    height, width = target["size"].tolist()
    boxes = found["boxes"].float() / target["scale"].repeat(2)
    boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], 2).flatten(1)
    seen = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    made = {"boxes": boxes[seen], "scores": found["scores"][seen].float(), "labels": found["labels"][seen]}
    if "masks" in found:
        pasted = paste_masks_in_image(found["masks"][seen].float().unsqueeze(1), made["boxes"], (height, width))
        made["masks"] = pasted.reshape(-1, height, width) >= 0.5
    return made
