"""Images and their objects as tensors: resized, filled up to a square, in training mirrored and jittered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from dyt.tasks.bands import Picture, size_of
from dyt.tasks.base import Examples
from dyt.tasks.detection.coco import ObjectSplit
from dyt.tasks.detection.outlines import Objects, outlines
from dyt.tasks.detection.spec import DetectionSpec
from dyt.tasks.preparation import Preparation
from dyt.tasks.sizes import pair


class ObjectImages(Examples):
    """(image (C, S, T) uint8, target) of a position, S x T the size.

    A target in training: `boxes` (n, 4) float32, xyxy in pixels of the S x T image, `labels` (n,) int64 from 1, and
    with outlines `masks` (n, S, T) uint8; crowds are left out. At inference everything is of the image as it lies on
    disk, (H, W), and as its file says: `boxes` (n, 4) float64, `labels`, `iscrowd` (n,) int64, `area` (n,) float64,
    `masks` (n, H, W) uint8, `size` (2,) int64, which is (H, W), `scale` (2,) float32, by how much x and y were
    multiplied, and `image` () int64, the image's place in the order of ids.
    """

    split: ObjectSplit

    def __init__(self, split: ObjectSplit, spec: DetectionSpec, preparation: Preparation, training: bool) -> None:
        super().__init__(split)
        self.spec, self.size, self.training = spec, preparation.size, training
        self.channels, self.fill_with = preparation.channels, preparation.colour

    def example(self, position: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, objects = self.split.image(position, self.channels), self.split.objects[position]
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
        """(B, C, S, T), and the targets as a list, for their images have different numbers of objects."""
        return torch.stack([image for image, _ in examples]), [target for _, target in examples]

    def _for_training(
        self, image: Picture, objects: Objects, draws: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        chance, factor, left, top = torch.rand(4, generator=draws).tolist()
        low, high = self.spec.jitter or (1.0, 1.0)
        factor = low + (high - low) * factor
        pixels, scale = resized(image, (max(round(self.size[0] * factor), 1), max(round(self.size[1] * factor), 1)))
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
            int(part * (length - side + 1)) if length > side else 0
            for part, length, side in zip((top, left), pixels.shape[1:], self.size, strict=True)
        )
        pixels = pixels[:, y : y + self.size[0], x : x + self.size[1]]
        height, width = pixels.shape[1:]
        boxes = boxes - torch.tensor([x, y, x, y])
        boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], 2).flatten(1)
        if masks is not None:
            masks = masks[:, y : y + self.size[0], x : x + self.size[1]]
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


def resized(image: Picture, size: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(C, h, w) uint8, the largest that fits into `size`, and (2,) float32, by how much x and y were multiplied.

    `size`: a side, or (H, W).
    """
    own, limits = size_of(image), pair(size)
    factor = min(limit / length for limit, length in zip(limits, own, strict=True))
    height, width = (max(round(length * factor), 1) for length in own)
    if isinstance(image, Tensor):
        pixels = transforms.resize(image, [height, width], antialias=True)
    else:
        pixels = transforms.pil_to_tensor(image.resize((width, height), Image.Resampling.BILINEAR))
    return pixels, torch.tensor([width / own[1], height / own[0]])


def squared(image: Picture, size: int | tuple[int, int], colour: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`resized`, and filled up with the colour at the right or the bottom to (C, H, W)."""
    pixels, scale = resized(image, size)
    return filled(pixels, size, colour), scale


def filled(pixels: Tensor, size: int | tuple[int, int], colour: Sequence[int]) -> Tensor:
    """(N, h, w) -> (N, H, W): filled up with the colour, one of each channel or of all."""
    out = torch.tensor(colour, dtype=pixels.dtype).view(-1, 1, 1).expand(len(pixels), *pair(size)).clone()
    out[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return out
