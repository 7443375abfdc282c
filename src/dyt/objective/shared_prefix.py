"""The passes of one tuning step over the same images: what precedes the first dispatcher's effect is computed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import DropPath, PatchDropout  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dyt.core import context
from dyt.core.route import SharedPrefix
from dyt.model.block import DynamicBlock
from dyt.model.dynamic import DynamicModel


class Passes:
    """Runs a model over the same images several times, each in its own forward context; exact, gradients included.

    The first pass keeps its prefix; later ones are given one image, in the place of whose tokens the prefix's go on
    from the first dynamic block. Where that is not known to be exact, every pass computes everything.

    Args:
        model: the dynamic model.
        images: (B, 3, H, W), or what the backbone takes in their place.
        share: False computes everything in every pass.
    """

    def __init__(self, model: DynamicModel, images: Tensor, share: bool = True) -> None:
        self.model, self.images = model, images
        self.first = first_block(model) if share else None
        self.prefix: SharedPrefix | None = None

    def __call__(self, count: int | None = None) -> Any:
        """The outputs for the first `count` images, all by default; the first pass is one of all."""
        images = self.images if count is None else first_images(self.images, count)
        if self.first is None:
            return self.model(images)
        if self.prefix is None:
            assert count is None
            prefix = self.prefix = SharedPrefix()
        else:
            prefix, images = self.prefix if count is None else self.prefix.of(count), first_images(images, 1)
        hook = self.first.register_forward_pre_hook(self._entering)
        try:
            with context.changed(self.model.key, shared_prefix=prefix):
                found = self.model(images)
        finally:
            hook.remove()
        return found

    def _entering(self, block: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        prefix = context.current(self.model.key).shared_prefix  # not this object's: another thread's forward has none
        if prefix is None:
            return None
        if prefix.entered is None:
            prefix.entered = args[0]
            return None
        return prefix.entered, *args[1:]


def first_images(images: Tensor, count: int) -> Tensor:
    """The first of a batch; of a mapping of tensors, which NaFlexViT takes, the first of each."""
    if isinstance(images, Mapping):
        return type(images)({name: each[:count] for name, each in images.items()})
    return images[:count]


def first_block(model: DynamicModel) -> DynamicBlock | None:
    """The block at which passes over the same images part; None where they are not known to agree until there.

    They are where the family says that its blocks see the images through their tokens alone, nothing outside the
    dynamic blocks draws noise or keeps statistics in train mode, and neither tuner nor reducer acts before.
    """
    if model.tuner is not None or torch.compiler.is_compiling():
        return None
    first: DynamicBlock | None = None
    inside: set[int] = set()
    for module in model.backbone.modules():  # a block comes before what is in it
        if isinstance(module, DynamicBlock):
            first = first or module
            inside.update(map(id, module.modules()))
        elif id(module) not in inside and module.training and _changes(module):
            return None
    alike = first is not None and first.reduction is None and first.family.resumable(model.backbone)
    return first if alike else None


def _changes(module: nn.Module) -> bool:
    """Whether a module in train mode gives something else at every call."""
    return (
        (isinstance(module, _DropoutNd) and module.p > 0)
        or (isinstance(module, DropPath) and bool(module.drop_prob))
        or (isinstance(module, PatchDropout) and module.prob > 0)
        or isinstance(module, _BatchNorm)
    )


def stochastic(model: DynamicModel) -> bool:
    """Whether a dispatched branch draws drop path or dropout in the model's present mode."""
    for module in model.backbone.modules():
        if isinstance(module, DynamicBlock) and any(map(module.stochastic, module.dispatched)):
            return True
    return False
