"""How transformers' vision models are laid out and pool, by the package of `transformers.models` that they are from.

Shapes: B images, N tokens (class and register tokens first), C channels, F features that the head reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from torch import Tensor, cat

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Architecture:
    """How the models of one package of transformers are laid out, and how they pool.

    Attributes:
        bare: class of the vision tower, without a classifier.
        classifier: class of the tower with one.
        tower: the child of `classifier` that is the tower.
        layers, norm: children of the tower: the list of layers, the final norm.
        prefix: prefix tokens without registers.
        pooled: (tower, tokens (B, N, C)) -> (B, F), the tower's own pooled features.
        read: (tokens (B, N, C), prefix tokens) -> (B, F), what the classifier reads.
        mean, std: of the images that the released weights were trained on.
        doubled: whether F is 2C in the classifier.
    """

    bare: str
    classifier: str
    tower: str
    layers: str
    norm: str
    prefix: int
    pooled: Callable[[Any, Tensor], Tensor]
    read: Callable[[Tensor, int], Tensor]
    mean: Colour
    std: Colour
    doubled: bool = False


def _dinov2(name: str, package: str) -> Architecture:
    return Architecture(
        bare=f"{name}Model",
        classifier=f"{name}ForImageClassification",
        tower=package,
        layers="encoder.layer",
        norm="layernorm",
        prefix=1,
        pooled=lambda tower, tokens: tokens[:, 0],
        read=lambda tokens, prefix: cat([tokens[:, 0], tokens[:, prefix:].mean(1)], 1),
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        doubled=True,
    )


ARCHITECTURES = {
    "vit": Architecture(
        bare="ViTModel",
        classifier="ViTForImageClassification",
        tower="vit",
        layers="layers",
        norm="layernorm",
        prefix=1,
        pooled=lambda tower, tokens: tokens[:, 0] if tower.pooler is None else tower.pooler(tokens),
        read=lambda tokens, prefix: tokens[:, 0],
        mean=IMAGENET_INCEPTION_MEAN,
        std=IMAGENET_INCEPTION_STD,
    ),
    "dinov2": _dinov2("Dinov2", "dinov2"),
    "dinov2_with_registers": _dinov2("Dinov2WithRegisters", "dinov2_with_registers"),
    "clip": Architecture(
        bare="CLIPVisionModel",
        classifier="CLIPForImageClassification",
        tower="vision_model",
        layers="encoder.layers",
        norm="post_layernorm",
        prefix=1,
        pooled=lambda tower, tokens: tower.post_layernorm(tokens[:, 0]),
        read=lambda tokens, prefix: tokens[:, prefix:].mean(1),
        mean=OPENAI_CLIP_MEAN,
        std=OPENAI_CLIP_STD,
    ),
    "siglip": Architecture(
        bare="SiglipVisionModel",
        classifier="SiglipForImageClassification",
        tower="vision_model",
        layers="encoder.layers",
        norm="post_layernorm",
        prefix=0,
        pooled=lambda tower, tokens: tower.head(tokens) if tower.use_head else tokens.mean(1),
        read=lambda tokens, prefix: tokens.mean(1),
        mean=IMAGENET_INCEPTION_MEAN,
        std=IMAGENET_INCEPTION_STD,
    ),
}
"""By the package of `transformers.models`."""
