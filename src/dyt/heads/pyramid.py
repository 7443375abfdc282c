"""Maps of several layers, and a plain ViT's, all of one stride, as a pyramid of four (paper: segmentation; BEiT).

Shapes: B images of (H, W) pixels; a map is (B, C, H / stride, W / stride).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dyt.core.offloading import at_hand

DEPTHS = (1 / 3, 1 / 2, 2 / 3, 1.0)
"""Layers 4, 6, 8 and 12 of 12, as shares of the depth."""
BEHIND = ("norm", "fc_norm", "head_norm", "attn_pool", "pool", "neck")
"""What stands in timm's models between the last block and the classifier; maps of blocks do not go through it."""


@dataclass(frozen=True)
class Layer:
    """One map that a backbone gives: its position in `forward_intermediates`, channels, and pixels of a stride."""

    index: int
    channels: int
    stride: int


def layers_of(backbone: nn.Module) -> tuple[Layer, ...]:
    """The maps that `forward_intermediates` gives, in forward order: a block each, or a stage each."""
    described: Any = backbone.feature_info
    return tuple(Layer(i, int(each["num_chs"]), int(each["reduction"])) for i, each in enumerate(described))


def refusal(backbone: nn.Module) -> str | None:
    """Why maps cannot be had of this backbone; None when they can."""
    if not hasattr(backbone, "forward_intermediates"):
        return "it gives no maps of its layers (timm's forward_intermediates)"
    if not hasattr(backbone, "feature_info"):
        return "it does not say the channels and strides of its layers (timm's feature_info)"
    return None


def hierarchical(layers: Sequence[Layer]) -> bool:
    """Whether the maps have several strides, as Swin's have."""
    return len({layer.stride for layer in layers}) > 1


def chosen(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Four layers: the last four stages of a hierarchical model (all where it has fewer), else those of `DEPTHS`."""
    if hierarchical(layers):
        return tuple(layers[-4:])
    return tuple(layers[max(round(len(layers) * depth) - 1, 0)] for depth in DEPTHS)


def maps(backbone: nn.Module, images: Tensor, layers: Sequence[Layer], norm: bool = False) -> list[Tensor]:
    """The maps of these layers, NCHW; `norm` applies the final norm. A layer may be named more than once."""
    indices = sorted({layer.index for layer in layers})
    with at_hand(backbone):  # of which another method than forward is called
        each_map = backbone.forward_intermediates(  # type: ignore[operator]
            images, indices=indices, norm=norm, output_fmt="NCHW", intermediates_only=True
        )
    by_index = dict(zip(indices, each_map, strict=True))
    return [by_index[layer.index] for layer in layers]


def leave_out(backbone: nn.Module, names: Sequence[str] = BEHIND) -> None:
    """Stops the training of what maps do not go through, so that every trained parameter has a gradient."""
    for name in names:
        module = getattr(backbone, name, None)
        if isinstance(module, nn.Module):
            module.requires_grad_(False)


class Pyramid(nn.Module):
    """Four maps of one stride s -> strides s/4, s/2, s, 2 s, each by learned transposed convolutions or pooling (BEiT).

    Args:
        channels: C of the four maps, which they keep.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        a, b, _, _ = channels
        quarter = nn.Sequential(
            nn.ConvTranspose2d(a, a, 2, 2), nn.BatchNorm2d(a), nn.GELU(), nn.ConvTranspose2d(a, a, 2, 2)
        )
        half = nn.ConvTranspose2d(b, b, 2, 2)
        # a map of one row or column is kept as it is
        self.scales = nn.ModuleList([quarter, half, nn.Identity(), nn.MaxPool2d(2, ceil_mode=True)])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four maps (B, C_i, h, w) -> (B, C_i, 4h, 4w), (2h, 2w), (h, w), (h/2, w/2, rounded up)."""
        return [scale(each) for scale, each in zip(self.scales, maps, strict=True)]
