"""Average precision as COCO defines it, by its own code (pycocotools)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

NAMES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
"""In the order of COCO's summary: over overlaps from 0.5 to 0.95, at 0.5, at 0.75, then by the objects' areas."""
Kind = Literal["bbox", "segm"]


@dataclass(frozen=True)
class Seen:
    """One image: what is there, and what was detected.

    Attributes:
        image: its place in the order in which COCO's code goes through images, which decides between equal scores.
        size: (height, width) in pixels.
        truths, detections: of each object `category_id` (from 1), `bbox` (x, y, width, height in pixels), `area`; of a
            truth `iscrowd`, of a detection `score`; with masks `segmentation`, COCO's compressed run lengths.
    """

    image: int
    size: tuple[int, int]
    truths: Sequence[Mapping[str, Any]]
    detections: Sequence[Mapping[str, Any]]


def average_precision(seen: Sequence[Seen], kind: Kind) -> dict[str, float | None]:
    """By `NAMES`, fractions; None where there is no object to detect.

    Args:
        seen: all images of a split, in any order.
        kind: whether boxes or masks overlap.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ordered = sorted(seen, key=lambda one: one.image)
    images = [{"id": one.image, "height": one.size[0], "width": one.size[1]} for one in ordered]
    both = [[(one.image, each) for one in ordered for each in objects(one)] for objects in (_truths, _detections)]
    labels = sorted({each["category_id"] for _, each in (*both[0], *both[1])})
    made = []
    with redirect_stdout(io.StringIO()):  # it prints what it does
        for objects in both:
            coco = COCO()
            coco.dataset = {
                "images": images,
                "categories": [{"id": label} for label in labels],
                # from 1: its code takes number 0 for "no object"
                "annotations": [{**each, "id": i, "image_id": k} for i, (k, each) in enumerate(objects, 1)],
            }
            coco.createIndex()
            made.append(coco)
        evaluation = COCOeval(*made, iouType=kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = np.asarray(evaluation.stats)[: len(NAMES)].tolist()
    return {name: None if value < 0 else float(value) for name, value in zip(NAMES, values, strict=True)}


def _truths(one: Seen) -> Sequence[Mapping[str, Any]]:
    return one.truths


def _detections(one: Seen) -> Sequence[Mapping[str, Any]]:
    return one.detections
