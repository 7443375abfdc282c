"""COCO's average precision of detections, in pixels of the images as they lie on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from dyt.core.ranks import gathered_objects
from dyt.tasks.base import Measure
from dyt.tasks.detection.precision import Kind, Seen, average_precision


class AveragePrecision(Measure):
    """`map` (mean over overlaps from 0.5 to 0.95), `map_50`, `map_75`, and by size of the objects; None where there are
    none. Of detections with masks also `mask_map` and so on. What it keeps of the images is on the CPU, where it is
    computed; masks as run lengths.
    """

    def __init__(self) -> None:
        self.seen: dict[Kind, list[Seen]] = {}

    def update(self, outputs: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]]) -> None:
        detections = [in_original(one, target) for one, target in zip(outputs, targets, strict=True)]
        kinds: tuple[Kind, ...] = ("bbox",)
        if all("masks" in one for one in (*detections, *targets)):
            kinds = ("bbox", "segm")
        for kind in kinds:
            self.seen.setdefault(kind, []).extend(
                Seen(int(target["image"]), _size(target), _objects(target, kind), _objects(one, kind))
                for one, target in zip(detections, targets, strict=True)
            )

    def compute(self) -> dict[str, float | None]:
        values: dict[str, float | None] = {}
        for kind, seen in self.seen.items():
            prefix = "" if kind == "bbox" else "mask_"
            values |= {
                f"{prefix}{name}": value for name, value in average_precision(gathered_objects(seen), kind).items()
            }
        return values


def _objects(of: Mapping[str, Tensor], kind: Kind) -> list[dict[str, Any]]:
    """The objects of an image as pycocotools wants them, of whatever is known of them."""
    corners = of["boxes"].double().cpu()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    plain: dict[str, Sequence[Any]] = {
        "category_id": of["labels"].tolist(),
        "bbox": boxes.tolist(),
        "area": (boxes[:, 2] * boxes[:, 3]).tolist(),
    }
    if kind == "segm":
        plain["segmentation"] = run_lengths(of["masks"])
        plain["area"] = of["masks"].flatten(1).sum(1, dtype=torch.int64).tolist()
    if "area" in of:
        plain["area"] = of["area"].tolist()
    plain |= {there: of[name].tolist() for name, there in (("iscrowd",) * 2, ("scores", "score")) if name in of}
    return [dict(zip(plain, each, strict=True)) for each in zip(*plain.values(), strict=True)]


def run_lengths(masks: Tensor) -> list[Any]:
    """COCO's compressed form of masks (n, H, W) bool or uint8: a mapping of `size` and `counts` (bytes) each."""
    from pycocotools import mask as coco

    pixels = masks.to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    with warnings.catch_warnings():  # pycocotools has not followed NumPy 2's __array__
        warnings.simplefilter("ignore", DeprecationWarning)
        codes: list[Any] = coco.encode(np.asfortranarray(pixels))
    return codes


def _size(target: Mapping[str, Tensor]) -> tuple[int, int]:
    height, width = target["size"].tolist()
    return height, width


def in_original(detections: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detections in pixels of the image as it lies on disk: `size` and `scale` of the target say how.

    Boxes are cut to it, what lay in the padding alone is left out; masks become (n, H, W) bool.
    """
    height, width = _size(target)
    boxes = detections["boxes"].float() / target["scale"].repeat(2)
    boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], 2).flatten(1)
    seen = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    made = {"boxes": boxes[seen], "scores": detections["scores"][seen].float(), "labels": detections["labels"][seen]}
    if "masks" in detections:
        pasted = paste_masks_in_image(detections["masks"][seen].float().unsqueeze(1), made["boxes"], (height, width))
        made["masks"] = pasted.reshape(-1, height, width) >= 0.5
    return made
