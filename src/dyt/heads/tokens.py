"""`tokens`: the encoder's own final tokens, held to those of the untouched encoder; no labels are needed.

Shapes: B images, N tokens (prefix included), P patch tokens, C channels.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dyt.config.spec import HeadSpec
from dyt.core.offloading import at_hand
from dyt.errors import DyTError
from dyt.families.base import find
from dyt.heads.base import Head, TaskHeadSpec
from dyt.registry import heads

Weight = Annotated[float, Field(ge=0.0)]
FLOOR = 1e-6
"""A token's squared norm below this share of the mean one counts as this."""
LEAST = 1e-12
"""What is divided by where all targets are zero."""


class TokensSpec(TaskHeadSpec):
    """`tokens`: the encoder's own final tokens, held to those of the encoder before it was tuned."""

    type: Literal["tokens"] = "tokens"
    num_classes: Annotated[int, Field(ge=0, le=0)] = 0
    """0: it has no classes."""
    class_weight: Weight = 1.0
    """Weight of the distance of what stands for the image: the class token, or the mean patch token where there is
    none."""
    patch_weight: Weight = 1.0
    """Weight of the mean distance of the patch tokens."""

    @model_validator(mode="after")
    def _trains(self) -> TokensSpec:
        if self.class_weight == self.patch_weight == 0:
            raise ValueError("class_weight and patch_weight are both 0, so that nothing would be trained; give one")
        return self


class ImageTokens(NamedTuple):
    """What an encoder says of images, float32.

    Attributes:
        image: (B, C) what stands for each image: the class token, or the mean patch token where there is none.
        patches: (B, P, C).
    """

    image: Tensor
    patches: Tensor


@heads("tokens")
class Tokens(Head):
    """Outputs are what the backbone's `forward_features` gives: its final tokens, after the last norm where it has one.

    They have the untouched encoder's shape, and each token its place, so that whatever reads them goes on working. The
    loss is the squared distance of each token to the untouched encoder's over that one's squared norm; for tokens of
    equal length it is 2 - 2 cos of the angle between them. It is 0 where the tokens agree.
    """

    Spec: ClassVar[type[HeadSpec]] = TokensSpec
    task: ClassVar[str] = "features"
    taught: ClassVar[bool] = True
    shares_prefix: ClassVar[bool] = True
    reads_patches: ClassVar[bool] = True
    reads_grid: ClassVar[bool] = True

    def __init__(self, spec: TokensSpec, backbone: nn.Module) -> None:
        super().__init__(spec, backbone)
        self.spec = spec
        self.prefix = _prefix_tokens(backbone)
        self.has_class_token = self.prefix > 0 and _has_class_token(backbone)
        self.channels = int(backbone.num_features)  # type: ignore[arg-type]

    @classmethod
    def example_targets(cls, spec: HeadSpec, inputs: Tensor) -> None:
        """None: the targets are what the untouched encoder gives of the same inputs."""
        return

    def forward(self, backbone: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The final tokens (B, N, C), as the backbone lays them out."""
        with at_hand(backbone):  # of which another method than forward is called
            tokens: Tensor = backbone.forward_features(images, *args, **kwargs)  # type: ignore[operator]
        return tokens

    def read(self, tokens: Tensor) -> ImageTokens:
        """What these outputs say of each image: (B, N, C); of Swin (B, h, w, C), of SAM (B, C, h, w) are taken too."""
        if tokens.ndim == 4:
            tokens = (tokens if tokens.shape[-1] == self.channels else tokens.permute(0, 2, 3, 1)).flatten(1, 2)
        tokens = tokens.float()
        patches = tokens[:, self.prefix :]
        return ImageTokens(tokens[:, 0] if self.has_class_token else patches.mean(1), patches)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """() float32: how far the tokens are from the targets, which are the untouched encoder's.

        Raises:
            DyTError: targets that are not so many numbers.
        """
        if not isinstance(targets, Tensor) or targets.numel() != outputs.numel():
            given = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            raise DyTError(
                f"head 'tokens' is held to tokens {tuple(outputs.shape)} of the untouched encoder; given {given}"
            )
        own, other = self.read(outputs), self.read(targets.detach().reshape(outputs.shape))
        image, patches = distance(own.image, other.image), distance(own.patches, other.patches)
        return self.spec.class_weight * image + self.spec.patch_weight * patches

    def divergence(self, complete: Tensor, dynamic: Tensor, temperature: float) -> Tensor:
        """The same distance of the dynamic pass's tokens to the complete pass's; there is nothing to soften."""
        return self.loss(dynamic, complete.detach())

    def tally(self, outputs: Tensor, targets: Any) -> tuple[Tensor, int]:
        """Nothing is right or wrong."""
        return outputs.new_zeros(()), 0


def distance(tokens: Tensor, targets: Tensor) -> Tensor:
    """() float32: the squared distance of each token (..., C) to its target over the target's squared norm; the mean.

    Each token counts alike, however long it is.
    """
    apart, length = (tokens - targets).square().sum(-1), targets.square().sum(-1)
    return (apart / torch.maximum(length, (FLOOR * length.mean()).clamp_min(LEAST))).mean()


def _prefix_tokens(backbone: nn.Module) -> int:
    """Number of prefix tokens in what the backbone gives; in CaiT there are none in most blocks."""
    given = getattr(backbone, "num_prefix_tokens", None)
    if isinstance(given, int):
        return given
    found = find(backbone)
    return 0 if found is None else found[1].prefix_tokens(backbone)


def _has_class_token(backbone: nn.Module) -> bool:
    """Whether the first prefix token is a class token; timm's encoders without one have registers alone."""
    inside = getattr(backbone, "embeds", backbone)  # NaFlexViT's tokens are its embeddings'
    return getattr(inside, "cls_token", inside) is not None
