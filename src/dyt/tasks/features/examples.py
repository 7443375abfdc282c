"""Images without labels, prepared as the encoder's own description says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.data import create_transform  # type: ignore[attr-defined]
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from dyt.tasks.bands import Picture
from dyt.tasks.features.spec import FeaturesSpec
from dyt.tasks.preparation import Preparation


def transform(spec: FeaturesSpec, preparation: Preparation, training: bool) -> Callable[[Picture], Tensor]:
    """Image of 1 or 3 channels -> (C, H, W) uint8."""
    size, how = preparation.size, spec.interpolation or preparation.interpolation
    made: Callable[[Picture], Tensor]
    if training and spec.augment == "crop":
        aspect = size[1] / size[0]
        crop = v2.RandomResizedCrop(size, ratio=(3 / 4 * aspect, 4 / 3 * aspect), interpolation=InterpolationMode(how))
        made = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])
    else:
        own: dict[str, Any] = {"crop_pct": preparation.crop_pct, "crop_mode": preparation.crop_mode}
        made = create_transform(size, interpolation=how, normalize=False, **own)
    return made
