"""An image of any size through a model: in windows whose answers are put together, or whole.

Shapes: B images of (H, W) pixels, K classes, C channels of whatever is computed of each window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.errors import DyTError
from dyt.heads.pyramid import layers_of


def any_size(backbone: nn.Module) -> bool:
    """Whether this backbone takes images of any size that is a multiple of `multiple`."""
    return getattr(getattr(backbone, "patch_embed", None), "strict_img_size", True) is False


def multiple(backbone: nn.Module) -> int:
    """What sides must be a multiple of: the largest stride of the backbone's maps, in pixels."""
    return max(layer.stride for layer in layers_of(backbone))


def check(backbone: nn.Module, size: int, inference: str, stride: int | None = None) -> None:
    """Refuses, before anything is trained, crops or an inference that this backbone cannot be given.

    Raises:
        DyTError: in one line, with what to do.
    """
    if stride is not None and stride > size:
        raise DyTError(
            f"data.stride {stride} is above the windows' {size} pixels, which would leave pixels out; lower it"
        )
    own: Any = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    if any_size(backbone):
        if size % multiple(backbone):
            raise DyTError(f"data.size is {size}; this backbone needs a multiple of {multiple(backbone)}")
        return
    remedy = "set backbone.args.dynamic_img_size: true (timm's ViT and Swin)"
    if own is not None and tuple(own) != (size, size):
        raise DyTError(
            f"data.size is {size}, but the backbone takes images of {own[0]} x {own[1]} alone; set "
            f"backbone.args.img_size: {size}, or {remedy}"
        )
    if inference == "whole":
        raise DyTError(f"data.inference is whole, but the backbone takes images of one size; use slide, or {remedy}")


def padded(images: Tensor, height: int, width: int) -> Tensor:
    """Images (B, C, H, W) with zeros (the mean colour, of normalised images) below and to the right."""
    return F.pad(images, (0, max(width - images.shape[3], 0), 0, max(height - images.shape[2], 0)))


def whole(run: Callable[[Tensor], Tensor], images: Tensor, unit: int) -> Tensor:
    """`run` on images padded to whole multiples of `unit`; (B, C, H, W), the padding cut off."""
    height, width = images.shape[2:]
    found = run(padded(images, -(-height // unit) * unit, -(-width // unit) * unit))
    return found[:, :, :height, :width]


def starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin along a side: `stride` apart, the last one at the end."""
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def slide(run: Callable[[Tensor], Tensor], images: Tensor, size: int, stride: int, batch: int) -> Tensor:
    """The mean over windows of what `run` makes of each, (B, C, H, W) float32.

    Args:
        run: windows (N, 3, size, size) -> (N, C, size, size).
        images: (B, 3, H, W); smaller ones are padded to a window.
        size: side of a window.
        stride: pixels between two windows; the last of a side ends with the image.
        batch: windows run at once.
    """
    height, width = images.shape[2:]
    images = padded(images, size, size)
    places = [(y, x) for y in starts(images.shape[2], size, stride) for x in starts(images.shape[3], size, stride)]
    total, count = None, images.new_zeros(images.shape[2:], dtype=torch.float32)
    for begin in range(0, len(places), batch):
        some = places[begin : begin + batch]
        found = run(torch.cat([images[:, :, y : y + size, x : x + size] for y, x in some])).float()
        if total is None:
            total = found.new_zeros(len(images), found.shape[1], *images.shape[2:])
        for (y, x), window in zip(some, torch.split(found, len(images)), strict=True):
            total[:, :, y : y + size, x : x + size] += window
            count[y : y + size, x : x + size] += 1
    assert total is not None  # there is one window at least
    return (total / count)[:, :, :height, :width]
