"""`tome`: in every block the r most similar pairs of patch tokens are merged (ToMe, arXiv:2210.09461)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dyt.core.context import BuildContext, DecisionContext
from dyt.errors import SpecError
from dyt.reducers.base import Carried, Reduced, Reducer, ReducerSpec
from dyt.reducers.matching import matching, merge
from dyt.registry import reducers

Pairs = Annotated[int, Field(ge=0)]


class ToMeSpec(ReducerSpec):
    """`tome`: in every block the most similar pairs of patch tokens are merged (ToMe, arXiv:2210.09461)."""

    type: str = "tome"
    r: Pairs | tuple[Pairs, ...] = 8
    """Number of pairs of tokens that each block merges: one number, or a list with one for each block. At most half of
    a block's patch tokens are merged."""
    proportional: bool = True
    """Whether attention weighs each token by the number of patches that it stands for (ToMe, eq. 1)."""


@reducers("tome")
class ToMe(Reducer):
    """Acts between attention and MLP, by the cosine of the attention's keys; merged tokens are averaged by size.

    The order of the tokens is kept (ToMe's own code moves the tokens of one set to the front), which changes which
    tokens are candidates in the next block. Every patch stays part of one token, so a head that reads patch tokens
    (average, maximum or attention pooling) gets each patch's token in the patch's position: exactly the mean
    weighted by size, and attention pooling with proportional attention.
    """

    Spec = ToMeSpec
    needs_keys: ClassVar[bool] = True
    restores: ClassVar[bool] = True

    def __init__(self, spec: ToMeSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.r = spec.r if isinstance(spec.r, int) else spec.r[context.block]
        self.proportional = spec.proportional

    @classmethod
    def layers(cls, spec: ReducerSpec, depth: int) -> tuple[int, ...]:
        assert isinstance(spec, ToMeSpec)
        if not isinstance(spec.r, int) and len(spec.r) != depth:
            raise SpecError(
                f"reducer.r: {len(spec.r)} numbers given for {depth} blocks; give one, or one for each block"
            )
        return tuple(range(depth))

    def reduce(self, x: Tensor, carried: Carried, context: DecisionContext) -> Reduced:
        prefix, patches = context.prefix, x.shape[1] - context.prefix
        r = min(self.r, patches // 2)
        if r == 0:
            return Reduced(x, carried)
        assert context.keys is not None
        places = matching(context.keys[:, prefix:], r)
        sizes = x.new_ones(x.shape[:2], dtype=torch.float32) if carried.sizes is None else carried.sizes
        merged, counted = merge(x[:, prefix:], sizes[:, prefix:], places, patches - r)
        source = places if carried.source is None else places.gather(1, carried.source)
        carried = replace(
            carried,
            sizes=torch.cat([sizes[:, :prefix], counted], 1),
            source=source,
            proportional=self.proportional,
        )
        return Reduced(torch.cat([x[:, :prefix], merged], 1), carried)
