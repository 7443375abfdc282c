"""Outlines of objects as COCO has them, polygons or run lengths: checked, and filled."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

FAR = 1e6
"""Pixels; what is farther away is no coordinate."""


@dataclass(frozen=True)
class Objects:
    """The objects of one image, n of them, which may be none.

    Attributes:
        size: (height, width) of the image in pixels.
        boxes: (n, 4) float32, xyxy in pixels, cut to the image.
        given: (n, 4) float64, xywh in pixels, as the file says; what is measured against.
        labels: (n,) int64, positions among the classes, from 0.
        crowd: (n,) bool, a region of many objects that are not told apart.
        areas: (n,) float64, pixels of the object, as the file says; of its box where it does not.
        order: place of the image among all of the file by their ids, in which COCO's own measure goes through them.
        outlines: n polygons or run lengths as COCO has them; none when they are not read.
    """

    size: tuple[int, int]
    boxes: np.ndarray
    given: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    order: int
    outlines: tuple[Any, ...] = ()


def is_number(value: Any) -> bool:
    """Whether it can be a coordinate: a finite number of JSON's."""
    return type(value) in {int, float} and abs(value) <= FAR


def wrong_outline(outline: Any, height: int, width: int) -> str | None:
    """What is wrong with an outline in an image of this size, None for nothing.

    pycocotools itself takes memory as it finds it for the pixels that run lengths lack.
    """
    if not isinstance(outline, (list, dict)) or not outline:
        return "no segmentation; leave data.masks at false, and take head faster_rcnn"
    if isinstance(outline, list):
        sound = all(isinstance(p, list) and len(p) >= 6 and not len(p) % 2 and all(map(is_number, p)) for p in outline)
        return None if sound else "a segmentation whose polygons are not each three or more x, y"
    if outline.get("size") != [height, width]:
        return f"run lengths of the size {str(outline.get('size'))[:40]}, not {[height, width]} as its image"
    counts = outline.get("counts")
    lengths = run_lengths(counts) if isinstance(counts, str) else counts
    if isinstance(lengths, list) and all(type(n) is int and n >= 0 for n in lengths) and sum(lengths) == height * width:
        return None
    return f"run lengths that are not those of {height} x {width} pixels"


def run_lengths(text: str) -> list[int] | None:
    """The run lengths that COCO's compressed form stands for (`rleFrString` of its maskApi.c); None where it is none.

    Five bits a character from `0` on, lowest first, a sixth where more follow; from the fourth number on, differences
    to the number before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for byte in text.encode():
        bits = byte - ord("0")
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return None if shift else counts


def outlines(objects: Objects) -> Tensor:
    """(n, H, W) uint8, 1 inside of the polygons or run lengths."""
    from pycocotools import mask as coco

    height, width = objects.size
    masks = np.zeros((len(objects.outlines), height, width), dtype=np.uint8)
    for i, outline in enumerate(objects.outlines):
        if isinstance(outline, list):
            codes = coco.merge(coco.frPyObjects(outline, height, width))
        else:
            codes = outline if isinstance(outline["counts"], str) else coco.frPyObjects(outline, height, width)
        with warnings.catch_warnings():  # pycocotools has not followed NumPy 2's __array__
            warnings.simplefilter("ignore", DeprecationWarning)
            masks[i] = coco.decode(codes)
    return torch.from_numpy(masks)
