"""The pure functions of sampling a mask: noise, the Gumbel-sigmoid (paper eq. 5), the straight-through estimator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dyt.core.draws import share


def gumbel_difference(like: Tensor) -> Tensor:
    """G1 - G2 for independent G1, G2 ~ Gumbel(0, 1): noise in the shape, dtype and device of `like`.

    The one function of the library that draws router noise. `like` is (B, P) at token level and (B, 1) at sample level.
    """
    tiny = torch.finfo(like.dtype).tiny
    first = share(lambda shape: like.new_empty(shape).exponential_(), like.shape).clamp_min_(tiny)
    second = share(lambda shape: like.new_empty(shape).exponential_(), like.shape).clamp_min_(tiny)
    return second.log_().sub_(first.log_())


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.to(soft.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, Tensor]:
        return None, grads[0]


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard` in the forward pass, exactly 0 or 1, with the gradient of `soft` in the backward pass.

    (The usual `hard - soft.detach() + soft` is off by a rounding error, so that an inactive token would still be
    computed.)

    Args:
        hard: bool, any shape.
        soft: float, the same shape.
    """
    gate: Tensor = _StraightThrough.apply(hard, soft)
    return gate


def gumbel_sigmoid(logits: Tensor, noise: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Active iff logit + noise > 0, with the gradient of S = sigmoid((logit + noise) / temperature) (paper eq. 5).

    Args:
        logits: (B, P) float32, the site's threshold already taken off.
        noise: (B, P) float32 or None for none.
        temperature: tau > 0.

    Returns:
        active (B, P) bool; gate (B, P) float32, `active` with the gradient of S.
    """
    noisy = logits if noise is None else logits + noise
    active = noisy > 0
    return active, straight_through(active, torch.sigmoid(noisy / temperature))
