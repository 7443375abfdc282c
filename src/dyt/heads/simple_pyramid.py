"""ViTDet's simple feature pyramid: maps of several resolutions from the last map of a plain ViT (arXiv:2203.16527)."""

from __future__ import annotations

from typing import Any

from timm.layers import LayerNorm2d  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.core.offloading import at_hand


class SimplePyramid(nn.Module):
    """Maps at a quarter, half, once and twice the patch's stride (4, 8, 16, 32 px of a patch of 16), and a coarser one.

    From one map by transposed convolutions and pooling, each followed by a 1 x 1 and a 3 x 3 convolution with layer
    norms, as in ViTDet (section 3); the fifth, every second place of the fourth, is for proposals of the largest boxes.

    Args:
        dim: channels C of the map that is given.
        channels: D of the maps that come out.
    """

    levels = ("0", "1", "2", "3")
    """The names of the four maps; the fifth is `pool`."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        four = [
            nn.ConvTranspose2d(dim, dim // 2, 2, 2),
            LayerNorm2d(dim // 2),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 2, dim // 4, 2, 2),
        ]
        two = [nn.ConvTranspose2d(dim, dim // 2, 2, 2)]
        self.stages = nn.ModuleList(
            nn.Sequential(*scaling, *_joined(width, channels))
            for scaling, width in ((four, dim // 4), (two, dim // 2), ([], dim), ([nn.MaxPool2d(2, 2)], dim))
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, h, w), h and w at least 2 -> `0` (B, D, 4h, 4w), `1` (B, D, 2h, 2w), `2` (B, D, h, w), `3`
        (B, D, h/2, w/2), `pool` (B, D, h/4, w/4), the last two rounded down and up.
        """
        maps = {name: stage(x) for name, stage in zip(self.levels, self.stages, strict=True)}
        return maps | {"pool": F.max_pool2d(maps["3"], 1, 2)}


def _joined(width: int, channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(width, channels, 1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels),
    ]


def last_map(backbone: Any, images: Tensor) -> Tensor:
    """(B, C, h, w): the patch tokens after the last block, before any final norm, in their places."""
    with at_hand(backbone):  # of which another method than forward is called
        maps: list[Tensor] = backbone.forward_intermediates(
            images, indices=1, norm=False, output_fmt="NCHW", intermediates_only=True
        )
    return maps[-1]


def plain_refusal(backbone: Any) -> str | None:
    """Why there is no simple pyramid of this backbone, or None when there is one."""
    infos = getattr(backbone, "feature_info", None)
    if not infos or not hasattr(backbone, "forward_intermediates"):
        return "it does not give its last map (timm's feature_info and forward_intermediates)"
    strides = sorted({int(info["reduction"]) for info in infos})
    if len(strides) > 1:
        return (
            f"its maps have strides {', '.join(map(str, strides))}; the simple pyramid is made of a plain ViT's one map"
        )
    if strides[0] & (strides[0] - 1) or strides[0] < 4:
        return f"its patch is {strides[0]} px; pooling of regions wants strides that are powers of two, from 4 on"
    return None
