"""Scores that decide: linear routers in float32, and thresholds that break ties by place.

Where many tokens have the same logit (a fitted router that tells nothing, flat parts of an image), a threshold alone
would put all of them on one side, and rounding, which differs with the CPU and the batch's shape, would say on which.
So a site whose threshold t has been set compares the logit of the patch token at place p with

    t + (1 + |t|) WIDTH u(p),   u(p) in (-1/2, 1/2) spread evenly over the places

WIDTH is far above the rounding of a logit, and far below what a router distinguishes. A threshold of exactly 0, the
paper's rule, is compared with as it is. An image is decided by itself, since u knows the place and nothing else.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 2.0**-11
"""Between the first and the last place's threshold, at a threshold near 0."""
LEAST = 2.0**-40
"""What a threshold of 0 becomes where ties are to be broken."""
_PLACES = 2**20
_GOLDEN = 648055  # odd and next to _PLACES / 1.618: each place its own, any number of consecutive ones evenly spread


class Router(nn.Linear):
    """A linear map whose outputs decide something: float32 whatever its weights and inputs are, also under autocast.

    State-dict keys and initialisation are those of `nn.Linear`. It is called as a module, so that hooks, low-rank
    updates and offloading see it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out) float32."""
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(input.float(), self.weight.float(), bias)


def routed(router: Any, x: Tensor) -> Tensor:
    """(..., C_out) float32, also under autocast: x (..., C_in) through a router, or what another library put there."""
    with torch.autocast(x.device.type, enabled=False):
        scores: Tensor = router(x.float())
        return scores.float()


def linear_scores(router: nn.Module, tokens: Tensor) -> Tensor:
    """(B, P) float32, also under autocast: the score of each token of (B, P, C) by a router C -> 1."""
    return routed(router, tokens).squeeze(-1)


def by_place(threshold: Tensor, patches: int) -> Tensor:
    """(P,) float32: what the logits of the patch tokens at each place are compared with, for a threshold ().

    (B, P) for each image's own (B, 1).
    """
    threshold = threshold.float()
    # |t + sign t| is 1 + |t|, and 0 at 0
    return torch.addcmul(threshold, (threshold + threshold.sign()).abs(), _offsets(patches, threshold))


def evened(logits: Tensor) -> Tensor:
    """(B, P) float32: the threshold up to which the token of each logit (B, P) is active: `by_place` inverted."""
    offsets = _offsets(logits.shape[1], logits)
    above = logits.float() - offsets
    return above / (1 + above.sign() * offsets)


def breaking(threshold: Tensor) -> Tensor:
    """The threshold, or where it is 0 one so near to 0 that it only breaks ties."""
    return torch.where(threshold == 0, torch.full_like(threshold, LEAST), threshold)


def _offsets(patches: int, like: Tensor) -> Tensor:
    """(P,) float32: WIDTH u(p), where `like` is. Traced tensors and fake ones are not kept for others."""
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return _computed(patches, like.device)
    kept = _kept(patches, like.device)
    if type(kept) is not Tensor:  # under a mode that makes every new tensor a fake one, and leaves those of a model
        _kept.cache_clear()
    return kept


def _computed(patches: int, device: torch.device) -> Tensor:
    spread = torch.arange(patches, device=device) * _GOLDEN % _PLACES
    return (spread.float() + 0.5) * (WIDTH / _PLACES) - WIDTH / 2


@lru_cache(maxsize=64)
def _kept(patches: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else it would be of no use to a backward pass later
        return _computed(patches, device)
