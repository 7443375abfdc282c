"""What the dispatchers of a fixed number per image share: which number, and the largest that many, exactly."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from dyt.config.schedules import Rate
from dyt.dispatchers.base import RatedSpec


class CountedSpec(RatedSpec):
    """Fields of a dispatcher with a fixed number of active tokens per image; `level` is `token`."""

    rate: Rate | None = None
    """Share of each image's own patch tokens that is active, rounded to a number of tokens. Null takes
    `objective.rate`, unless `count` is given."""
    count: Annotated[int, Field(ge=1)] | None = None
    """Number of active patch tokens in each image, in place of `rate`; all of an image that has fewer."""

    @field_validator("level")
    @classmethod
    def _within_an_image(cls, level: Literal["token", "sample"]) -> Literal["token", "sample"]:
        if level == "sample":
            raise ValueError("a fixed number of tokens is chosen within each image; leave level at token")
        return level

    @model_validator(mode="after")
    def _one_of_two(self) -> CountedSpec:
        if self.rate is not None and self.count is not None:
            raise ValueError("rate and count both say how many tokens are active; give one of them")
        return self


def number(tokens: Tensor, padding: Tensor | None, rate: float, count: int | None) -> Tensor:
    """(B, 1) int64: how many of the tokens (B, P, C) are active, padding (B, P) never among them."""
    images, patches = tokens.shape[:2]
    if padding is None:
        wanted = round(rate * patches) if count is None else min(count, patches)
        return torch.full((images, 1), wanted, device=tokens.device)
    real = (~padding).sum(1, keepdim=True)
    return (real.double() * rate).round().long() if count is None else real.clamp_max(count)


def largest(scores: Tensor, wanted: Tensor, padding: Tensor | None) -> Tensor:
    """(B, P) bool: each image's `wanted` (B, 1) largest scores (B, P), of equal ones the first; padding comes last."""
    if padding is not None:
        scores = scores.masked_fill(padding, -torch.inf)
    order = scores.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    active = torch.empty_like(order).scatter_(1, order, place) < wanted
    return active if padding is None else active & ~padding
