"""Base of reducers: a reducer lowers the number of patch tokens for the rest of a block and all later blocks.

Shapes: B images, N tokens (prefix included), P = N - prefix patch tokens, C channels. Prefix tokens are never touched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dyt.config.base import ComponentSpec
from dyt.core.context import BuildContext, DecisionContext
from dyt.errors import SpecError
from dyt.registry import reducers

NEGLIGIBLE = 1e-20
"""The weight of a dropped token as a key in training. Not 0, whose logarithm has no gradient: this is far
below float32's rounding, and the product of the softmax's gradient with the logarithm's is the exact one."""


class ReducerSpec(ComponentSpec):
    """Base of the reducers' specs."""


@dataclass(frozen=True, eq=False)
class Carried:
    """State that passes with the tokens from block to block in one forward.

    Attributes:
        patches: patch tokens that entered the first block.
        sizes: (B, N) float32, how many patches each token stands for (1 for prefix tokens); None for one each.
        source: (B, patches) int64; for each of the first block's patch tokens, the position among the current patch
            tokens of the one that it was merged into; None while every token is in its original position.
        kept: (B, N) float32, 1 for kept tokens and 0 for dropped tokens that are still present, with the
            straight-through gradient; None if no dropped token is present.
        proportional: whether the sizes weigh the tokens as keys.
    """

    patches: int
    sizes: Tensor | None = None
    source: Tensor | None = None
    kept: Tensor | None = None
    proportional: bool = True

    def bias(self) -> Tensor | None:
        """(B, 1 or N, N) float32 to be added to the attention logits (queries by keys), or None for nothing.

        log(size) of the key: proportional attention (ToMe, arXiv:2210.09461, eq. 1), as if each token were present once
        per patch. log(kept) of the key, but 0 for a token attending to itself: DynamicViT's attention masking
        (arXiv:2106.02034, section 3.3), with the gradient of a kept and of a dropped token's weight.
        """
        bias = self.sizes.log()[:, None, :] if self.sizes is not None and self.proportional else None
        if self.kept is not None:
            others = (self.kept + NEGLIGIBLE).log()[:, None, :]
            itself = torch.eye(others.shape[-1], dtype=torch.bool, device=others.device)
            masking = others.masked_fill(itself, 0.0)
            bias = masking if bias is None else bias + masking
        return bias


@dataclass(frozen=True, eq=False)
class Reduced:
    """The tokens after a reduction.

    Attributes:
        x: (B, N', C), prefix tokens first, then patch tokens.
        carried: the state that passes on with them.
        penalty: () float32, a weighted term that is added to the fine-tuning loss; None for no term.
    """

    x: Tensor
    carried: Carried
    penalty: Tensor | None = None


class Reducer(nn.Module, ABC):
    """Base of reducers: subclass, set `Spec`, implement `layers` and `reduce`, register with `@dyt.registry.reducers`.

    There is one module for each block in which it acts.

    Args:
        spec: the component's own spec.
        context: its position in the model.
    """

    Spec: ClassVar[type[ReducerSpec]] = ReducerSpec
    where: ClassVar[Literal["entry", "middle"]] = "middle"
    """`entry`: before the block; `middle`: between its attention and its MLP."""
    needs_keys: ClassVar[bool] = False
    """Whether `reduce` reads the attention's keys; refused on backbones that do not provide them."""
    needs_attention: ClassVar[bool] = False
    """Whether `reduce` reads the class token's attention; refused on backbones that do not provide it."""
    restores: ClassVar[bool] = False
    """Whether it keeps `Carried.source`, so that a head that reads patch tokens gets one for every patch."""

    def __init__(self, spec: ReducerSpec, context: BuildContext) -> None:
        super().__init__()

    @classmethod
    @abstractmethod
    def layers(cls, spec: ReducerSpec, depth: int) -> tuple[int, ...]:
        """The blocks in which it acts, ascending from 0, for a backbone of `depth` blocks.

        Raises:
            SpecError: the spec does not fit that depth.
        """

    def forward(self, x: Tensor, carried: Carried, context: DecisionContext) -> Reduced:
        """Calls `reduce` through the module, so that hooks and offloading see it."""
        return self.reduce(x, carried, context)

    @abstractmethod
    def reduce(self, x: Tensor, carried: Carried, context: DecisionContext) -> Reduced:
        """Reduces the patch tokens of x (B, N, C); kept tokens stay in the order of their positions.

        The number of remaining tokens must not depend on their values. Draw random numbers only if `context.training`.
        """


def quarters(depth: int) -> tuple[int, ...]:
    """The blocks after each quarter of the depth: 3, 6 and 9 of 12."""
    return tuple(sorted({depth * quarter // 4 for quarter in (1, 2, 3)}))


def chosen(layers: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """The blocks in a spec's `layers`, checked against the depth; None for the quarters of the depth.

    Raises:
        SpecError: a block that does not exist.
    """
    if layers is None:
        return quarters(depth)
    outside = [layer for layer in layers if layer >= depth]
    if outside:
        raise SpecError(f"reducer.layers: no block {outside[0]}; the backbone has blocks 0 to {depth - 1}")
    return tuple(layers)


def ascending(layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The same layers, for a validator of a spec's field: not empty, from 0, ascending, none twice."""
    if layers is not None and (not layers or layers[0] < 0 or any(a >= b for a, b in pairwise(layers))):
        raise ValueError("layers names blocks from 0 in ascending order; leave it out for the quarters of the depth")
    return layers


reducers.accepts(Reducer, ComponentSpec)
