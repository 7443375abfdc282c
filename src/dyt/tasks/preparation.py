"""What a backbone wants of its images, as timm resolves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import resolve_data_config  # type: ignore[attr-defined]
from torch import Tensor, nn

from dyt.assembly.backbone import input_size
from dyt.core.data_config import channels
from dyt.tasks.sizes import pair


@dataclass(frozen=True)
class Preparation:
    """What a backbone wants of its images.

    Attributes:
        size: (H, W) in pixels.
        mean, std: of each of its channels, in [0, 1].
        interpolation, crop_pct, crop_mode: of its own resize at inference, in timm's words.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"

    @staticmethod
    def of(backbone: nn.Module, size: int | Sequence[int] | None = None) -> Preparation:
        """As timm resolves it; the image size is the model's own where it has one.

        The statistics of RGB weights are taken for other channels as timm takes their stem: in turn, or their mean for
        a single one.
        """
        config: dict[str, Any] = resolve_data_config({}, model=backbone)  # type: ignore[no-untyped-call]
        mean, std = (_for_channels(config[name], channels(backbone)) for name in ("mean", "std"))
        resize = (str(config["interpolation"]), float(config["crop_pct"]), str(config["crop_mode"]))
        return Preparation(input_size(backbone) if size is None else pair(size), mean, std, *resize)

    @property
    def channels(self) -> int:
        """C of the images."""
        return len(self.mean)

    @property
    def colour(self) -> tuple[int, ...]:
        """The mean as C values of 8 bits, to fill up with."""
        return tuple(round(255 * value) for value in self.mean)

    def normalized(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> float32, (x / 255 - mean) / std; float images are so already."""
        if images.dtype != torch.uint8:
            return images
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images.float() / 255 - mean) / std

    def shown(self, images: Tensor) -> Tensor:
        """What `normalized` made, (B, C, H, W), as it was in [0, 1]."""
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images * std + mean).clamp(0, 1)


def _for_channels(values: Sequence[float], count: int) -> tuple[float, ...]:
    if len(values) == count:
        return tuple(values)
    return (sum(values) / len(values),) if count == 1 else tuple(values[i % len(values)] for i in range(count))
