"""`evit`: the patch tokens that the class token attends to are kept, the others fused (EViT, arXiv:2202.07800)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import field_validator
from torch import Tensor

from dyt.config.spec import Rate
from dyt.core.context import BuildContext, DecisionContext
from dyt.reducers.base import Carried, Reduced, Reducer, ReducerSpec, ascending, chosen
from dyt.reducers.selection import best, pick
from dyt.registry import reducers


class EViTSpec(ReducerSpec):
    """`evit`. `keep`: share of the present patch tokens that each of its blocks keeps, rounded up.

    `layers`: its blocks, from 0; None for the quarters of the depth, which of 12 blocks are the paper's 4th, 7th, 10th.
    `fuse`: whether the tokens that are not kept become one more token, the last; without it they are dropped.
    """

    type: str = "evit"
    keep: Rate = 0.7
    layers: tuple[int, ...] | None = None
    fuse: bool = True

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
