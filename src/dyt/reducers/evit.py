"""`evit`: the patch tokens that the class token attends to are kept, the others fused (EViT, arXiv:2202.07800)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import field_validator
from torch import Tensor

from dyt.config.schedules import Rate
from dyt.core.context import BuildContext, DecisionContext
from dyt.reducers.base import Carried, Reduced, Reducer, ReducerSpec, ascending, chosen
from dyt.reducers.selection import best, pick
from dyt.registry import reducers


class EViTSpec(ReducerSpec):
    """`evit`: the patch tokens that the class token attends to are kept (EViT, arXiv:2202.07800)."""

    type: str = "evit"
    keep: Rate = 0.7
    """Share of the present patch tokens that each of the reducer's blocks keeps, rounded up to a number of tokens."""
    layers: tuple[int, ...] | None = None
    """The blocks in which tokens are dropped, ascending from 0. Null takes the quarters of the depth: 3, 6 and 9 of 12,
    which are EViT's 4th, 7th and 10th."""
    fuse: bool = True
    """Whether the tokens that are not kept become one more token, the last; `false` drops them."""

    _ascending = field_validator("layers")(ascending)


@reducers("evit")
class EViT(Reducer):
    """Acts between attention and MLP, by the class token's attention, the mean over heads.

    The fused token is the sum of the others weighted by that attention, sum a_i x_i, as in the paper and its code: the
    weights are not normalised to sum to one. In later blocks it counts as a patch token.
    """

    Spec = EViTSpec
    needs_attention: ClassVar[bool] = True

    def __init__(self, spec: EViTSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.keep, self.fuse = spec.keep, spec.fuse

    @classmethod
    def layers(cls, spec: ReducerSpec, depth: int) -> tuple[int, ...]:
        assert isinstance(spec, EViTSpec)
        return chosen(spec.layers, depth)

    def reduce(self, x: Tensor, carried: Carried, context: DecisionContext) -> Reduced:
        prefix, count = context.prefix, x.shape[1] - context.prefix
        kept = min(math.ceil(self.keep * count - 1e-6), count)  # 0.7 * 10 is a little more than 7
        if kept == count:
            return Reduced(x, carried)
        assert context.attention is not None
        attention, patches = context.attention(), x[:, prefix:]
        index = best(attention.detach(), kept)
        parts = [x[:, :prefix], pick(patches, index)]
        if self.fuse:
            rest = attention.scatter(1, index, 0.0).unsqueeze(-1)
            parts.append((patches.float() * rest).sum(1, keepdim=True).to(x.dtype))
        return Reduced(torch.cat(parts, 1), carried)
