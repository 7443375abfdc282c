"""Small models and batches from plain data, deterministic; no hypothesis here."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import GluMlp, Mlp, SwiGLU, SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import dyt

MLPS: dict[str, type[nn.Module]] = {"mlp": Mlp, "glu": GluMlp, "swiglu": SwiGLU, "swiglu_packed": SwiGLUPacked}
CLASSES = 5
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


@dataclass(frozen=True)
class Case:
    """One random ViT with one batch.

    `vit`: arguments of VisionTransformer, `mlp_layer` by name. `image`: (H, W). `layout`: contiguous, channels_last or
    strided (a view that is not contiguous). `dtype`: float32, autocast (bfloat16 under autocast) or bfloat16 (pure).
    """

    vit: dict[str, Any]
    image: tuple[int, int]
    batch: int
    seed: int
    layout: str = "contiguous"
    dtype: str = "float32"

    def backbone(self) -> VisionTransformer:
        """The plain timm model, in eval mode, every parameter random so that no branch is trivially zero or one."""
        torch.manual_seed(self.seed)
        args = self.vit | {"mlp_layer": MLPS[self.vit.get("mlp_layer", "mlp")]}
        model = VisionTransformer(num_classes=CLASSES, **args)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model.to(torch.bfloat16 if self.dtype == "bfloat16" else torch.float32).eval()

    def images(self) -> Tensor:
        """(batch, 3, H, W) in the asked layout."""
        height, width = self.image
        x = torch.randn(self.batch, 3, height, width, generator=torch.Generator().manual_seed(self.seed + 1))
        if self.dtype == "bfloat16":
            x = x.bfloat16()
        if self.layout == "channels_last":
            return x.to(memory_format=torch.channels_last)
        return x.transpose(2, 3).contiguous().transpose(2, 3) if self.layout == "strided" else x

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast, when the case asks for it."""
        return torch.autocast("cpu", torch.bfloat16) if self.dtype == "autocast" else contextlib.nullcontext()

    def close(self, actual: Tensor, expected: Tensor) -> None:
        """Equal up to the rounding of the dtype: matrix products of other sizes are summed in another order."""
        if self.dtype == "float32":
            torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)
        else:
            scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
            torch.testing.assert_close(actual, expected, atol=0.06 * scale, rtol=0)


def spec(**changes: Any) -> dict[str, Any]:
    """A whole spec for a given backbone of a `Case`, or with `backbone=tiny_backbone()` for one that is made."""
    return {
        "backbone": {"weights": "none"},
        "head": {"num_classes": CLASSES},
        "adapter": {"type": "bottleneck"},
    } | changes


def tiny_backbone(**args: Any) -> dict[str, Any]:
    """A backbone spec that timm makes in a millisecond; JSON values only."""
    return {"name": "vit_tiny_patch16_224", "weights": "none", "args": TINY | args}


def tiny(args: dict[str, Any] | None = None, **changes: Any) -> dyt.DynamicModel:
    """A dynamic model of two small blocks, 16 patch tokens and a class token, in eval mode, moved off its start."""
    changes = {"adapter": {"type": "bottleneck", "dim": 16}} | changes
    return shaken(dyt.build(spec(backbone=tiny_backbone(**(args or {})), **changes)))


def shaken(model: dyt.DynamicModel, amount: float = 0.1) -> dyt.DynamicModel:
    """The same model with everything that learns moved away from its start."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * amount)
    return model


def token_shape(model: dyt.DynamicModel, images: Tensor) -> tuple[int, int]:
    """(B, N) of the tokens that the model's sites see."""
    with torch.no_grad(), dyt.execution(model, "complete"), dyt.record(model) as routes:
        model(images)
    batch, count = routes[0].active.shape
    return batch, count


def masks(model: dyt.DynamicModel, images: Tensor, kinds: Sequence[str], seed: int) -> list[Tensor]:
    """One (B, N) mask per site, prefix True: `none` of the patches, `one`, `all`, a `random` half, or `ragged`."""
    with torch.no_grad(), dyt.execution(model, "complete"), dyt.record(model) as routes:
        model(images)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i, (site, route) in enumerate(zip(model.sites, routes, strict=True)):
        batch, count = route.active.shape
        kind, chance = kinds[i % len(kinds)], torch.rand(batch, count, generator=generator)
        density = torch.rand(batch, 1, generator=generator).round(decimals=1)
        mask = {
            "none": lambda c=chance: torch.zeros_like(c, dtype=torch.bool),
            "one": lambda c=chance, p=site.prefix: c == c[:, p:].amax(1, keepdim=True),
            "all": lambda c=chance: torch.ones_like(c, dtype=torch.bool),
            "random": lambda c=chance: c < 0.5,
            "ragged": lambda c=chance, d=density: c < d,
        }[kind]()
        mask[:, : site.prefix] = True
        found.append(mask)
    return found
