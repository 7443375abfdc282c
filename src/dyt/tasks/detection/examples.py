"""Images and their objects as tensors: resized, filled up to a square, in training mirrored and jittered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from dyt.tasks.base import Examples
from dyt.tasks.detection.coco import Objects, ObjectSplit
from dyt.tasks.detection.outlines import outlines
from dyt.tasks.detection.spec import DetectionSpec
from dyt.tasks.loading import Preparation


class ObjectImages(Examples):
    """(image (3, S, S) uint8, target) of a position.

    A target in training: `boxes` (n, 4) float32, xyxy in pixels of the S x S image, `labels` (n,) int64 from 1, and
    with outlines `masks` (n, S, S) uint8; crowds are left out. At inference everything is of the image as it lies on
    disk, (H, W), and as its file says: `boxes` (n, 4) float64, `labels`, `iscrowd` (n,) int64, `area` (n,) float64,
    `masks` (n, H, W) uint8, `size` (2,) int64, which is (H, W), `scale` (2,) float32, by how much x and y were
    multiplied, and `image` () int64, the image's place in the order of ids.
    """

    split: ObjectSplit

    def __init__(self, split: ObjectSplit, spec: DetectionSpec, preparation: Preparation, training: bool) -> None:
        super().__init__(split)
        self.spec, self.size, self.training = spec, preparation.size, training
        self.fill_with = tuple(round(255 * value) for value in preparation.mean)

    def example(self, position: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, objects = self.split.read(position), self.split.objects[position]
        if self.training:
            return self._for_training(image, objects, torch.Generator().manual_seed(seed))
        square, scale = squared(image, self.size, self.fill_with)
        given = torch.from_numpy(objects.given)
        target = {
            "boxes": torch.cat([given[:, :2], given[:, :2] + given[:, 2:]], 1),
            "labels": torch.from_numpy(objects.labels) + 1,
            "iscrowd": torch.from_numpy(objects.crowd).long(),
            "area": torch.from_numpy(objects.areas),
            "size": torch.tensor(objects.size),
            "scale": scale,
            "image": torch.tensor(objects.order),
        }
        if self.spec.masks:
            target["masks"] = outlines(objects)
        return square, target

    @staticmethod
    def collate(examples: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, list[Any]]:
        """(B, 3, S, S), and the targets as a list, for their images have different numbers of objects."""
        return torch.stack([image for image, _ in examples]), [target for _, target in examples]

    def _for_training(
        self, image: Image.Image, objects: Objects, draws: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        chance, factor, left, top = torch.rand(4, generator=draws).tolist()
        low, high = self.spec.jitter or (1.0, 1.0)
        side = max(round(self.size * (low + (high - low) * factor)), 1)
        pixels, scale = resized(image, side)
        kept = torch.from_numpy(~objects.crowd)
        boxes = torch.from_numpy(objects.boxes)[kept] * scale.repeat(2)
        labels = torch.from_numpy(objects.labels)[kept] + 1
        masks = None
        if self.spec.masks:
            masks = transforms.resize(
                outlines(objects)[kept], list(pixels.shape[1:]), transforms.InterpolationMode.NEAREST
            )
        # a window of what is too large
        y, x = (
            int(part * (length - self.size + 1)) if length > self.size else 0
            for part, length in ((top, pixels.shape[1]), (left, pixels.shape[2]))
        )
        pixels = pixels[:, y : y + self.size, x : x + self.size]
        height, width = pixels.shape[1:]
        boxes = boxes - torch.tensor([x, y, x, y])
        boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], 2).flatten(1)
        if masks is not None:
            masks = masks[:, y : y + self.size, x : x + self.size]
        if chance < self.spec.flip:
            pixels = pixels.flip(2)
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
            masks = None if masks is None else masks.flip(2)
        # what is left of an object in the window; less than a pixel of it is nothing to learn from
        seen = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
        target = {"boxes": boxes[seen], "labels": labels[seen]}
        if masks is not None:
            target["masks"] = filled(masks[seen], self.size, (0,))
        return filled(pixels, self.size, self.fill_with), target


def resized(image: Image.Image, side: int) -> tuple[Tensor, Tensor]:
    """(3, h, w) uint8 with the longer of the two at `side`, and (2,) float32, by how much x and y were multiplied."""
    factor = side / max(image.size)
    width, height = (max(round(length * factor), 1) for length in image.size)
    pixels = transforms.pil_to_tensor(image.resize((width, height), Image.Resampling.BILINEAR))
    return pixels, torch.tensor([width / image.width, height / image.height])


def squared(image: Image.Image, side: int, colour: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`resized`, and filled up with the colour at the right or the bottom to (3, side, side)."""
    pixels, scale = resized(image, side)
    return filled(pixels, side, colour), scale


def filled(pixels: Tensor, side: int, colour: Sequence[int]) -> Tensor:
    """(N, h, w) -> (N, side, side): filled up with the colour, one of each channel or of all."""
    out = torch.tensor(colour, dtype=pixels.dtype).view(-1, 1, 1).expand(len(pixels), side, side).clone()
    out[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return out
