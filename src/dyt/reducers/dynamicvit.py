"""`dynamicvit`: learned predictors drop patch tokens in stages (DynamicViT, arXiv:2106.02034)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from dyt.config.schedules import Rate
from dyt.core.context import BuildContext, DecisionContext
from dyt.dispatchers import sampling
from dyt.errors import SpecError
from dyt.reducers.base import Carried, Reduced, Reducer, ReducerSpec, ascending, chosen
from dyt.reducers.selection import best, pick
from dyt.registry import reducers


class DynamicViTSpec(ReducerSpec):
    """`dynamicvit`: learned predictors drop patch tokens in stages (DynamicViT, arXiv:2106.02034)."""

    type: str = "dynamicvit"
    keep: Rate | tuple[Rate, ...] = 0.7
    """Share rho of patch tokens that is kept: the stages keep rho, rho^2, rho^3, ... of the tokens that entered the
    first block. A list gives each stage its share of these, and must not ascend."""
    layers: tuple[int, ...] | None = None
    """The blocks before which a stage stands, ascending from 0. Null takes the quarters of the depth: 3, 6 and 9 of 12,
    as in DynamicViT."""
    ratio_weight: Annotated[float, Field(ge=0.0)] = 2.0
    """Weight lambda of DynamicViT's ratio loss (its section 3.4): the squared difference between a stage's share and
    what an image keeps in training."""

    _ascending = field_validator("layers")(ascending)

    @model_validator(mode="after")
    def _hierarchical(self) -> DynamicViTSpec:
        if isinstance(self.keep, tuple) and (not self.keep or list(self.keep) != sorted(self.keep, reverse=True)):
            raise ValueError(f"keep: the shares of the stages must not ascend, and there is at least one; {self.keep}")
        return self


class Predictor(nn.Module):
    """DynamicViT's predictor (its section 3.2): for each patch token the logit of being kept.

    Half of the embedding is the token's own, the other half is averaged over the tokens that are still kept.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.local = dim // 2
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.judge = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 2)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, patches: Tensor, kept: Tensor | None) -> Tensor:
        """(B, P) float32, log p(keep) - log p(drop), for patches (B, P, C) and kept (B, P), None for all."""
        z = self.embed(patches)
        own, shared = z[..., : self.local], z[..., self.local :]
        if kept is None:
            mean = shared.mean(1, keepdim=True)
        else:
            weight = kept.to(shared.dtype).unsqueeze(-1)
            mean = (shared * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)
        scores: Tensor = self.judge(torch.cat([own, mean.expand_as(shared)], -1)).float()
        return scores[..., 0] - scores[..., 1]


@reducers("dynamicvit")
class DynamicViT(Reducer):
    """Acts before its block. At inference the tokens with the highest logits are kept, as many as the stage's share.

    In fine-tuning each token is kept or dropped by a straight-through Gumbel decision. A dropped token stays in its
    position, but no other token attends to it, so that the decision has a gradient. It stays dropped in later stages.
    """

    Spec = DynamicViTSpec
    where = "entry"

    def __init__(self, spec: DynamicViTSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        keep = spec.keep
        self.share = keep[context.index] if isinstance(keep, tuple) else keep ** (context.index + 1)
        self.ratio_weight, self.stages = spec.ratio_weight, context.of
        self.predictor = Predictor(context.dim)

    @classmethod
    def layers(cls, spec: ReducerSpec, depth: int) -> tuple[int, ...]:
        assert isinstance(spec, DynamicViTSpec)
        found = chosen(spec.layers, depth)
        if isinstance(spec.keep, tuple) and len(spec.keep) != len(found):
            raise SpecError(f"reducer.keep: {len(spec.keep)} shares given for {len(found)} stages; give one each")
        return found

    def reduce(self, x: Tensor, carried: Carried, context: DecisionContext) -> Reduced:
        patches = x[:, context.prefix :]
        if not patches.shape[1]:
            return Reduced(x, carried)
        return (self._masked if context.training else self._gathered)(x, patches, carried, context.prefix)

    def _gathered(self, x: Tensor, patches: Tensor, carried: Carried, prefix: int) -> Reduced:
        count = max(math.floor(self.share * carried.patches + 1e-6), 1)
        if count >= patches.shape[1]:
            return Reduced(x, carried)
        index = best(self.predictor(patches, None), count)
        return Reduced(torch.cat([x[:, :prefix], pick(patches, index)], 1), carried)

    def _masked(self, x: Tensor, patches: Tensor, carried: Carried, prefix: int) -> Reduced:
        before = None if carried.kept is None else carried.kept[:, prefix:]
        logits = self.predictor(patches, before)
        _, decided = sampling.gumbel_sigmoid(logits, sampling.gumbel_difference(logits.detach()), 1.0)
        kept = decided if before is None else decided * before
        penalty = self.ratio_weight / self.stages * ((kept.mean(1) - self.share) ** 2).mean()
        ones = kept.new_ones(x.shape[0], prefix)
        return Reduced(x, replace(carried, kept=torch.cat([ones, kept], 1)), penalty)
