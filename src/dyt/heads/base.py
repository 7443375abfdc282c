"""What every head is: what stands behind the backbone, what it gives, and the loss that trains it.

Shapes: B images, K classes. What a head gives (`outputs`) and is trained with (`targets`) is its own affair; the rest
of the library hands both on unseen.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dyt.config.base import ComponentSpec
from dyt.config.spec import HeadSpec
from dyt.core.calls import called_with
from dyt.core.data_config import channels
from dyt.families.base import Family
from dyt.registry import heads


class TaskHeadSpec(HeadSpec):
    """Base of the specs of heads that take the place of the backbone's own classifier."""

    @property
    def classifier(self) -> int:
        return 0


class Head(nn.Module, ABC):
    """Base of heads: subclass, set `Spec` and `task`, implement the methods, register with `@dyt.registry.heads(name)`.

    Everything in it is trained, and stored as `head.*`. It calls the backbone itself, so that it takes of it what it
    needs: logits, tokens, or maps of several layers (`forward_intermediates`).

    Args:
        spec: the head's own spec.
        backbone: the plain timm model; not kept and not changed, which is for `attach`.
    """

    Spec: ClassVar[type[HeadSpec]] = TaskHeadSpec
    task: ClassVar[str]
    """Whose data it is trained with: `classification`, `video`, `segmentation`, `detection`, `features`."""
    taught: ClassVar[bool] = False
    """Whether its targets are its own outputs, a tensor, of the backbone before it was tuned (`dyt.plain`), and no
    labels are read. It is refused where that backbone is not kept."""
    divergence_refusal: ClassVar[str | None] = None
    """Why there is no `divergence`, in words; None where there is one."""
    shares_prefix: ClassVar[bool] = False
    """Whether passes over the same images may go on from the first block (`dyt.objective.shared_prefix`): images that
    enter the head are images that enter the backbone, and nothing but logits comes out."""

    soft_labels: ClassVar[bool] = False
    """Whether the loss takes soft labels (B, K), which smoothing makes."""
    reads_patches: ClassVar[bool] = False
    """Whether it reads every patch token itself, so that their features, and not only what the backbone pools, are to
    be kept (`objective.features`, `train.router_start: importance`)."""
    reads_grid: ClassVar[bool] = False
    """Whether it reads a token for every patch, in its place (maps of layers): then there is no reducer before it."""

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "shares_stem" in vars(cls):
            what = f"{cls.__module__}.{cls.__qualname__}: shares_stem is shares_prefix now"
            end = "the old name goes away in the next minor version"
            warnings.warn(f"{what}; {end}", DeprecationWarning, stacklevel=3)  # past ABCMeta, where the class stands
            if "shares_prefix" not in vars(cls):
                cls.shares_prefix = vars(cls)["shares_stem"]

    def __init__(self, spec: HeadSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.image_channels = channels(backbone)

    def attach(self, backbone: nn.Module) -> None:
        """Changes of the backbone what the head asks to be changed; its blocks are dynamic by then. Here nothing."""
        return

    @classmethod
    def refusal(cls, spec: HeadSpec, backbone: nn.Module, family: Family) -> str | None:
        """Why this plain backbone cannot have this head, or None when it can; called before anything is changed."""
        return None

    def training_refusal(self, spec: HeadSpec) -> str | None:
        """Why a model with this head cannot be trained as its spec now has it; None when it can."""
        return None

    def input_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Of one input made of images of `size` (H, W) pixels, to count with where no data says it: (C, H, W)."""
        return (self.image_channels, *size)

    @classmethod
    def example_targets(cls, spec: HeadSpec, inputs: Tensor) -> Any:
        """What it could be trained with for these inputs (B, ...), to try it without data, as `dyt.testing.check` does.

        Here labels (B,) int64 below `num_classes`; a head that is trained with something else gives that.
        """
        return torch.arange(len(inputs), device=inputs.device) % spec.num_classes

    def frames(self, inputs: Tensor) -> Tensor:
        """The images (B', C, H, W) that enter the backbone for these inputs: themselves, or the frames of clips."""
        return inputs

    @abstractmethod
    def forward(self, backbone: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The outputs for a batch, as the backbone's present forward context makes its tokens."""

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The task's loss, () float32; the mean over the batch."""

    def counted(self, backbone: nn.Module, images: Any) -> Any:
        """The part of `forward` whose multiply-accumulates are counted as the model's: all of it.

        A head whose work depends on what it finds in an image leaves that part out, and says so.
        """
        return called_with(self, backbone, images)

    def divergence(self, complete: Any, dynamic: Any, temperature: float) -> Tensor:
        """KL(complete || dynamic), () float32, the complete outputs detached (paper section 3.5)."""
        raise NotImplementedError(self.divergence_refusal)

    def chances(self, outputs: Any) -> Tensor:
        """(B, K) float32, for heads that give one class for each input: the probability of each."""
        probabilities: Tensor = outputs.float().softmax(-1)
        return probabilities

    def tally(self, outputs: Any, targets: Any) -> tuple[Tensor, int]:
        """What training accuracy is made of: how many were right, (), and of how many; 0 of 0 where nothing is."""
        return next(self.parameters()).new_zeros(()), 0


heads.accepts(Head, ComponentSpec)
