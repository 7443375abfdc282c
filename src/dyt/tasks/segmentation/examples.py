"""Images with masks as tensors: scaled, cropped and mirrored together in training, as they are at inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

from dyt.heads.pixelwise import IGNORED
from dyt.tasks.bands import tensor_of
from dyt.tasks.base import Examples
from dyt.tasks.layouts import DataError
from dyt.tasks.loading import seeded
from dyt.tasks.preparation import Preparation
from dyt.tasks.segmentation.layout import Masked
from dyt.tasks.segmentation.spec import SegmentationSpec

Pair = tuple[Tensor, Tensor]


class Pairs(Examples):
    """Images (C, H, W) uint8 and labels (H, W) int64.

    Args:
        how: `crops` (random, of the spec's size), `centre` (crops of that size about the middle), or `whole`.
    """

    split: Masked

    def __init__(self, split: Masked, spec: SegmentationSpec, preparation: Preparation, how: str) -> None:
        super().__init__(split)
        self.spec, self.how, self.size = spec, how, preparation.size
        self.channels, self.colour = preparation.channels, list(preparation.colour)
        fill: Any = {tv_tensors.Image: self.colour, tv_tensors.Mask: IGNORED}
        self.crop = v2.RandomCrop(self.size, pad_if_needed=True, fill=fill)

    def example(self, position: int, seed: int) -> Pair:
        image, mask = self.read(position)
        if self.how == "whole":
            return self.resized(image, 1.0), mask.long()
        with seeded(seed):
            low, high = self.spec.scale
            factor = 1.0 if self.how == "centre" else low + (high - low) * float(torch.rand(()))
            image = self.resized(image, factor)
            mask = TF.resize(mask[None], list(image.shape[1:]), InterpolationMode.NEAREST)[0]
            if self.how == "centre":
                return self.centred(image, mask)
            return self.cropped(image, mask)

    def read(self, position: int) -> Pair:
        """(C, H, W) and (H, W) uint8, as they lie on disk; without masks every label is 255.

        Raises:
            ImageError, DataError: what cannot be read, or a mask of another size than its image; by name.
        """
        image = tensor_of(self.split.image(position, self.channels))
        if not self.split.masks:
            return image, torch.full(image.shape[1:], IGNORED, dtype=torch.uint8)
        mask = self.split.mask(position)
        if mask.shape != image.shape[1:]:
            raise DataError(
                f"{self.split.masks[position]}: a mask of {mask.shape[1]} x {mask.shape[0]} pixels for an image of "
                f"{image.shape[2]} x {image.shape[1]} ('{self.split.paths[position]}')"
            )
        return image, mask

    def resized(self, image: Tensor, factor: float) -> Tensor:
        """The image at the spec's size times a factor, both sides alike."""
        height, width = image.shape[1:]
        if self.spec.resize is not None:
            factor *= self.spec.resize / min(height, width)
        size = [max(round(height * factor), 1), max(round(width * factor), 1)]
        return image if size == [height, width] else TF.resize(image, size, InterpolationMode.BILINEAR, antialias=True)

    def cropped(self, image: Tensor, mask: Tensor) -> Pair:
        """A random crop of both, padded where they are smaller, mirrored by chance."""
        cropped = self.crop(tv_tensors.Image(image), tv_tensors.Mask(mask[None]))
        image, mask = (each.as_subclass(Tensor) for each in cropped)
        if float(torch.rand(())) < self.spec.flip:
            image, mask = image.flip(-1), mask.flip(-1)
        return image, mask[0].long()

    def centred(self, image: Tensor, mask: Tensor) -> Pair:
        """The crop about the middle, padded where the image is smaller."""
        height, width = image.shape[1:]
        below, right = max(self.size[0] - height, 0), max(self.size[1] - width, 0)
        colour: Any = self.colour
        image = TF.pad_image(image, [0, 0, right, below], fill=colour)
        mask = TF.pad_image(mask[None], [0, 0, right, below], fill=IGNORED)
        return TF.center_crop(image, list(self.size)), TF.center_crop(mask, list(self.size))[0].long()
