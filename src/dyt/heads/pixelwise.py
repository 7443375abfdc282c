"""What the heads of segmentation have in common: the loss, the divergence and the tally of one class for each pixel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.config.spec import HeadSpec
from dyt.families.base import Family
from dyt.heads import pyramid
from dyt.heads.base import Head

IGNORED = 255
"""The label of pixels that count for nothing."""


class Pixelwise(Head):
    """Base: logits (B, K, H, W) for labels (B, H, W) int64, where 255 is left out. It reads maps of the backbone."""

    task: ClassVar[str] = "segmentation"
    reads_patches: ClassVar[bool] = True
    reads_grid: ClassVar[bool] = True

    @classmethod
    def refusal(cls, spec: HeadSpec, backbone: nn.Module, family: Family) -> str | None:
        if not spec.num_classes:
            return "head.num_classes is 0; it gives each pixel a class, so give 1 or more"
        return pyramid.refusal(backbone)

    @classmethod
    def example_targets(cls, spec: HeadSpec, inputs: Tensor) -> Tensor:
        """Labels (B, H, W) int64 in stripes, the first row without a label."""
        height, width = inputs.shape[-2:]
        stripes = torch.arange(height, device=inputs.device)[:, None].expand(len(inputs), -1, width) % spec.num_classes
        return torch.where(torch.arange(height, device=inputs.device)[:, None] == 0, IGNORED, stripes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy over all labelled pixels of the batch, in float32; 0 where no pixel is labelled."""
        total = F.cross_entropy(outputs.float(), targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp_min(1)

    def divergence(self, complete: Tensor, dynamic: Tensor, temperature: float) -> Tensor:
        """KL(complete || dynamic) of each pixel, mean over an image's pixels, then over the batch; float32.

        Pixels without a label count as well: what the teacher says of them is known.
        """
        teacher = F.log_softmax(complete.detach().float() / temperature, dim=1)
        student = F.log_softmax(dynamic.float() / temperature, dim=1)
        pixels = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
        return pixels.mean() * temperature**2

    def tally(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        labelled = targets != IGNORED
        return ((outputs.argmax(1) == targets) & labelled).sum(), int(labelled.sum())


def enlarged(logits: Tensor, images: Tensor) -> Tensor:
    """Logits (B, K, h, w) at the images' size, bilinear."""
    height, width = images.shape[-2:]
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)


def like(module: nn.Module, backbone: nn.Module) -> None:
    """Moves a new module to where the backbone is, in its dtype."""
    some = next(backbone.parameters(), torch.empty(0))
    module.to(device=some.device, dtype=some.dtype)
