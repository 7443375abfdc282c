"""Small models and batches from plain data, deterministic; no hypothesis here."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import GluMlp, Mlp, SwiGLU, SwiGLUPacked  # type: ignore[attr-defined]
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dyt.assembly.build import build
from dyt.model.dynamic import DynamicModel, execution, record

MLPS: dict[str, Callable[..., nn.Module]] = {"mlp": Mlp, "glu": GluMlp, "swiglu": SwiGLU, "swiglu_packed": SwiGLUPacked}
CLASSES = 5
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


class Sample(ABC):
    """One plain model with one batch of images, deterministic.

    Attributes:
        image: (H, W).
        batch: images.
        seed: of weights and images.
        layout: contiguous, channels_last or strided (a view that is not contiguous).
        dtype: float32, autocast (bfloat16 under autocast) or bfloat16 (pure).
        classes: outputs of the head.
        prefix: number of prefix tokens, if it is known independently of the library.
    """

    image: tuple[int, int]
    batch: int
    seed: int
    layout: str
    dtype: str
    classes: int
    prefix: int | None

    @abstractmethod
    def plain(self) -> nn.Module:
        """The model as its library creates it."""

    def backbone(self) -> Any:
        """The plain model, in eval mode, every parameter random so that no branch is trivially zero or one."""
        torch.manual_seed(self.seed)
        model = self.plain()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model.to(torch.bfloat16 if self.dtype == "bfloat16" else torch.float32).eval()

    def images(self, again: int = 0) -> Tensor:
        """(batch, 3, H, W) in the case's layout; `again` numbers other draws of the same case."""
        height, width = self.image
        generator = torch.Generator().manual_seed(self.seed + 1 + again * 2**20)
        x = torch.randn(self.batch, 3, height, width, generator=generator)
        if self.dtype == "bfloat16":
            x = x.bfloat16()
        if self.layout == "channels_last":
            return x.to(memory_format=torch.channels_last)
        return x.transpose(2, 3).contiguous().transpose(2, 3) if self.layout == "strided" else x

    def head(self) -> dict[str, Any]:
        """The head's spec as plain data."""
        return {"num_classes": self.classes}

    def labels(self) -> Any:
        """The targets for the head: (batch,) int64."""
        return torch.arange(self.batch) % self.classes

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast, if the case uses it."""
        return torch.autocast("cpu", torch.bfloat16) if self.dtype == "autocast" else contextlib.nullcontext()

    def close(self, actual: Tensor, expected: Tensor) -> None:
        """Equal up to the rounding of the dtype: matrix products of other sizes are summed in another order.

        Raises:
            AssertionError: they are not, or the expected values are not finite, so that they cannot be compared.
        """
        if not expected.isfinite().all():
            raise AssertionError("NaN or infinity in the outputs: values exceed the range of their dtype")
        if self.dtype == "float32":
            torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)
        else:
            scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
            torch.testing.assert_close(actual, expected, atol=0.06 * scale, rtol=0)


@dataclass(frozen=True)
class Case(Sample):
    """A random ViT of timm's. `vit`: arguments of VisionTransformer, `mlp_layer` by name; the rest as in `Sample`."""

    vit: dict[str, Any]
    image: tuple[int, int]
    batch: int
    seed: int
    layout: str = "contiguous"
    dtype: str = "float32"
    classes: int = CLASSES

    @property
    def prefix(self) -> int:  # type: ignore[override]
        """Class and register tokens."""
        return int(self.vit.get("reg_tokens", 0)) + int(self.vit.get("class_token", True))

    @property
    def patches(self) -> int:
        """Patch tokens of an image."""
        side: int = self.vit["patch_size"]
        return -(-self.image[0] // side) * -(-self.image[1] // side)

    def plain(self) -> VisionTransformer:
        args = self.vit | {"mlp_layer": MLPS[self.vit.get("mlp_layer", "mlp")]}
        return VisionTransformer(num_classes=self.classes, **args)


@dataclass(frozen=True)
class GivenCase(Sample):
    """A model passed by the caller. `make` returns a new one at each call; the rest as in `Sample`."""

    make: Callable[[], nn.Module]
    image: tuple[int, int]
    batch: int
    seed: int
    layout: str = "contiguous"
    dtype: str = "float32"
    classes: int = CLASSES
    prefix: int | None = None

    def plain(self) -> nn.Module:
        return self.make()


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


def tiny(args: dict[str, Any] | None = None, **changes: Any) -> DynamicModel:
    """A dynamic model of two small blocks, 16 patch tokens and a class token, in eval mode, with random weights."""
    changes = {"adapter": {"type": "bottleneck", "dim": 16}} | changes
    return shaken(build(spec(backbone=tiny_backbone(**(args or {})), **changes)))


def shaken(model: DynamicModel, amount: float = 0.1) -> DynamicModel:
    """The same model with all trainable parameters moved away from their initial values."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * amount)
    return model


def leaves(value: Any, where: str = "outputs") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings, lists and tuples, with its path."""
    if isinstance(value, Tensor):
        yield where, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from leaves(each, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            yield from leaves(each, f"{where}[{i}]")


def token_shapes(model: DynamicModel, images: Tensor) -> list[tuple[int, int]]:
    """(B, N) of the tokens of each site; they differ from stage to stage of a hierarchical backbone."""
    with torch.no_grad(), execution(model, "complete"), record(model) as routes:
        model(images)
    return [(route.active.shape[0], route.active.shape[1]) for route in routes]


def token_shape(model: DynamicModel, images: Tensor) -> tuple[int, int]:
    """(B, N) of the tokens that the model's first site sees."""
    return token_shapes(model, images)[0]


def masks(model: DynamicModel, images: Tensor, kinds: Sequence[str], seed: int) -> list[Tensor]:
    """One (B, N) mask per site, prefix True: `none` of the patches, `one`, `all`, a `random` half, or `ragged`."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i, (site, (batch, count)) in enumerate(zip(model.sites, token_shapes(model, images), strict=True)):
        chance = torch.rand(batch, count, generator=generator)
        density = torch.rand(batch, 1, generator=generator).round(decimals=1)
        match kinds[i % len(kinds)]:
            case "none":
                mask = torch.zeros_like(chance, dtype=torch.bool)
            case "one":
                patches = chance[:, site.prefix :]
                largest = patches.amax(1, keepdim=True) if patches.shape[1] else 2.0  # a reducer may leave no patch
                mask = chance == largest
            case "all":
                mask = torch.ones_like(chance, dtype=torch.bool)
            case "random":
                mask = chance < 0.5
            case "ragged":
                mask = chance < density
            case other:
                raise ValueError(f"no kind of mask '{other}'")
        mask[:, : site.prefix] = True
        found.append(mask)
    return found
