"""`query`: one learned query reads the tokens of all frames of a clip (paper, section on video).

Shapes: B clips, T frames each, N tokens of a frame, C channels, K classes.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.config.spec import HeadSpec
from dyt.core.offloading import at_hand
from dyt.errors import DyTError
from dyt.families.base import Family
from dyt.heads.base import TaskHeadSpec
from dyt.heads.logits import LogitsHead
from dyt.registry import heads


class QuerySpec(TaskHeadSpec):
    """`query`: one learned query reads the tokens of all frames of a clip."""

    type: Literal["query"] = "query"
    attention_heads: PositiveInt | None = None
    """Attention heads of the cross-attention; must divide the backbone's channels. Null takes one per 64 channels, as
    ViTs have."""


@heads("query")
class Query(LogitsHead):
    """Clips (B, T, 3, H, W) -> logits (B, K): frames are a batch of images to the backbone, clip by clip.

    Frames meet in the head alone: one learned query cross-attends to all T x N tokens, prefix tokens included, and a
    linear classifier reads what it found. The tokens are normalised first, since some backbones leave that to their own
    classifier. Any T will do; the order of the frames is not seen, as in the paper.
    """

    Spec: ClassVar[type[HeadSpec]] = QuerySpec
    task: ClassVar[str] = "video"
    reads_patches: ClassVar[bool] = True

    def __init__(self, spec: QuerySpec, backbone: nn.Module) -> None:
        super().__init__(spec, backbone)
        channels, like = _channels(backbone), next(backbone.parameters())
        self.norm = nn.LayerNorm(channels)
        self.attention_heads = spec.attention_heads or _attention_heads(channels)
        self.query = nn.Parameter(torch.empty(1, 1, channels))  # a projection of it would be learned twice
        self.kv = nn.Linear(channels, 2 * channels, bias=False)  # a bias of the keys has no effect
        self.out_norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(channels, spec.num_classes)
        nn.init.trunc_normal_(self.query, std=0.02)
        nn.init.trunc_normal_(self.kv.weight, std=0.02)
        nn.init.trunc_normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self.to(device=like.device, dtype=like.dtype)

    @classmethod
    def refusal(cls, spec: HeadSpec, backbone: nn.Module, family: Family) -> str | None:
        if not spec.num_classes:
            return "head.num_classes is 0; it reads a class, so give 1 or more"
        asked = spec.attention_heads if isinstance(spec, QuerySpec) else None
        channels = _channels(backbone)
        if asked is not None and channels % asked:
            return f"head.attention_heads is {asked}, which does not divide its {channels} channels"
        return None

    def input_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Eight frames, the paper's clips: (8, C, H, W)."""
        return (8, self.image_channels, *size)

    def frames(self, inputs: Tensor) -> Tensor:
        """Clips (B, T, C, H, W) -> images (B * T, C, H, W), clip by clip.

        Raises:
            DyTError: not clips.
        """
        if inputs.ndim != 5:
            raise DyTError(
                f"head 'query' takes clips (clips, frames, channels, height, width); given a tensor of shape "
                f"{tuple(inputs.shape)}"
            )
        return inputs.flatten(0, 1)

    def forward(self, backbone: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with at_hand(backbone):  # of which another method than forward is called
            tokens: Tensor = backbone.forward_features(self.frames(images), *args, **kwargs)  # type: ignore[operator]
        tokens = self.norm(tokens.reshape(len(images), -1, tokens.shape[-1]))  # Swin's are (B * T, h, w, C)
        query, key, value = (
            self._split(part) for part in (self.query.expand(len(images), -1, -1), *self.kv(tokens).chunk(2, -1))
        )
        found = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1)
        logits: Tensor = self.classifier(self.out_norm(found))
        return logits

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.reshape(*x.shape[:2], self.attention_heads, -1).transpose(1, 2)


def _channels(backbone: nn.Module) -> int:
    return int(backbone.num_features)  # type: ignore[arg-type]


def _attention_heads(channels: int) -> int:
    return max(n for n in range(1, max(channels // 64, 1) + 1) if channels % n == 0)
