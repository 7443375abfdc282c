"""An image of any size through a model: in windows whose answers are put together, or whole.

Shapes: B images of (H, W) pixels, K classes, C channels of whatever is computed of each window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.assembly.backbone import input_size
from dyt.core.data_config import any_size
from dyt.errors import DyTError
from dyt.heads.pyramid import layers_of
from dyt.model.dynamic import DynamicModel
from dyt.tasks.segmentation.spec import SegmentationSpec
from dyt.tasks.sizes import pair


def multiple(backbone: nn.Module) -> int:
    """What sides must be a multiple of: the largest stride of the backbone's maps, in pixels."""
    return max(layer.stride for layer in layers_of(backbone))


def check(backbone: nn.Module, size: int | tuple[int, int], inference: str, stride: int | None = None) -> None:
    """Refuses, before anything is trained, crops or an inference that this backbone cannot be given.

    Raises:
        DyTError: in one line, with what to do.
    """
    size = pair(size)
    said = str(size[0]) if size[0] == size[1] else f"{size[0]} x {size[1]}"
    if stride is not None and stride > min(size):
        raise DyTError(
            f"data.stride {stride} is above the windows' {said} pixels, which would leave pixels out; lower it"
        )
    own: Any = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    if any_size(backbone):
        if any(side % multiple(backbone) for side in size):
            raise DyTError(f"data.size is {said}; this backbone needs a multiple of {multiple(backbone)}")
        return
    remedy = "set backbone.args.dynamic_img_size: true (timm's Swin: strict_img_size: false)"
    if own is not None and tuple(own) != size:
        raise DyTError(
            f"data.size is {said}, but the backbone takes images of {own[0]} x {own[1]} alone; set "
            f"backbone.args.img_size: {said if size[0] == size[1] else list(size)}, or {remedy}"
        )
    if inference == "whole":
        raise DyTError(f"data.inference is whole, but the backbone takes images of one size; use slide, or {remedy}")


def padded(images: Tensor, height: int, width: int) -> Tensor:
    """Images (B, C, H, W) with zeros (the mean colour, of normalised images) below and to the right."""
    return F.pad(images, (0, max(width - images.shape[3], 0), 0, max(height - images.shape[2], 0)))


def whole(run: Callable[[Tensor], Tensor], images: Tensor, unit: int) -> Tensor:
    """`run` on images padded to whole multiples of `unit`; (B, C, H, W), the padding cut off."""
    height, width = images.shape[2:]
    logits = run(padded(images, -(-height // unit) * unit, -(-width // unit) * unit))
    return logits[:, :, :height, :width]


def starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin along a side: `stride` apart, the last one at the end."""
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def slide(
    run: Callable[[Tensor], Tensor],
    images: Tensor,
    size: int | tuple[int, int],
    stride: int | tuple[int, int],
    batch: int,
) -> Tensor:
    """The mean over windows of what `run` makes of each, (B, C, H, W) float32.

    Args:
        run: windows (N, 3, h, w) -> (N, C, h, w).
        images: (B, 3, H, W); smaller ones are padded to a window.
        size: side of a window, or (h, w).
        stride: pixels between two windows, or those of each side; the last of a side ends with the image.
        batch: windows run at once.
    """
    height, width = images.shape[2:]
    (h, w), (down, across) = pair(size), pair(stride)
    images = padded(images, h, w)
    places = [(y, x) for y in starts(images.shape[2], h, down) for x in starts(images.shape[3], w, across)]
    total, count = None, images.new_zeros(images.shape[2:], dtype=torch.float32)
    for begin in range(0, len(places), batch):
        some = places[begin : begin + batch]
        logits = run(torch.cat([images[:, :, y : y + h, x : x + w] for y, x in some])).float()
        if total is None:
            total = logits.new_zeros(len(images), logits.shape[1], *images.shape[2:])
        for (y, x), window in zip(some, torch.split(logits, len(images)), strict=True):
            total[:, :, y : y + h, x : x + w] += window
            count[y : y + h, x : x + w] += 1
    assert total is not None  # there is one window at least
    return (total / count)[:, :, :height, :width]


def side(model: DynamicModel, spec: SegmentationSpec) -> tuple[int, int]:
    """(H, W) of crops and windows, in pixels."""
    return input_size(model.backbone) if spec.size is None else pair(spec.size)


def over(model: DynamicModel, images: Tensor, spec: SegmentationSpec, run: Any) -> Tensor:
    """What `run` makes of images of any size, (B, C, H, W), window by window or whole, as the spec says.

    Raises:
        DyTError: the model's backbone cannot be given what the spec asks for.
    """
    size = side(model, spec)
    check(model.backbone, size, spec.inference, spec.stride)
    if spec.inference == "whole":
        return whole(run, images, multiple(model.backbone))
    stride = (spec.stride, spec.stride) if spec.stride else (max(size[0] * 2 // 3, 1), max(size[1] * 2 // 3, 1))
    return slide(run, images, size, stride, spec.batch)
