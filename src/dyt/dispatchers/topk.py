"""`topk`: a fixed number of active tokens per image, those with the largest learned scores (CoDA, arXiv:2304.04947)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyt.config.schedules import at
from dyt.core.context import BuildContext, DecisionContext
from dyt.core.scores import Router, linear_scores
from dyt.dispatchers import sampling
from dyt.dispatchers.base import Decision, Dispatcher
from dyt.dispatchers.counted import CountedSpec, largest, number
from dyt.dispatchers.scored import ScoredSpec
from dyt.registry import dispatchers


class TopKSpec(ScoredSpec, CountedSpec):
    """`topk`: the patch tokens with the largest learned scores (CoDA, arXiv:2304.04947)."""

    type: str = "topk"


@dispatchers("topk")
class TopK(Dispatcher):
    """The k tokens with the largest score X W_g, plus noise in training, are active; of equal scores the first.

    In the backward pass a token's gate is the soft top-k sigmoid((score - cut) / tau), whose sum over an image is held
    at k, so that a token gains only what others lose; CoDA's soft top-k has the same property. The router has no bias,
    which would move all scores alike. Thresholds have no effect: the number is fixed, and no logits are reported.
    """

    Spec = TopKSpec

    def __init__(self, spec: TopKSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.temperature, self.noise, self.count = spec.temperature, spec.noise, spec.count
        self.rate = context.rate if spec.rate is None else spec.rate
        self.router = Router(context.dim, 1, bias=False)
        nn.init.trunc_normal_(self.router.weight, std=0.02)

    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        scores = linear_scores(self.router, tokens)
        wanted = number(tokens, context.padding, self.rate, self.count)
        if not context.training:
            return Decision(largest(scores, wanted, context.padding))
        scale = at(self.noise, context.progress)
        if scale > 0:
            scores = scores + sampling.gumbel_difference(scores.detach()) * scale
        active = largest(scores, wanted, context.padding)
        soft = soft_top(scores, active, context.padding, at(self.temperature, context.progress))
        return Decision(active, sampling.straight_through(active, soft))


def soft_top(scores: Tensor, active: Tensor, padding: Tensor | None, temperature: float) -> Tensor:
    """(B, P) float32: sigmoid((score - cut) / temperature), with a gradient that leaves its sum over an image alone.

    The cut lies half-way between the smallest active and the largest inactive score. Where the sum is to stay, the cut
    moves with the mean of the scores weighted by the sigmoid's slope, which is the implicit function's derivative.

    Args:
        scores: (B, P) float32.
        active: (B, P) bool, the largest of each image.
        padding: (B, P) bool or None.
        temperature: tau > 0.
    """
    hidden = torch.zeros_like(active) if padding is None else padding
    scores, fixed = scores.masked_fill(hidden, 0), scores.detach()
    inside = fixed.masked_fill(~active, torch.inf).amin(1, keepdim=True)
    outside = fixed.masked_fill(active | hidden, -torch.inf).amax(1, keepdim=True)
    # All or none active: the one bound that there is.
    cut = torch.where(inside.isinf(), outside, torch.where(outside.isinf(), inside, (inside + outside) / 2))
    distance = (fixed - cut).masked_fill(hidden | cut.isinf(), 0)
    slope = (distance / temperature).sigmoid()
    slope = (slope * (1 - slope)).masked_fill(hidden, 0)
    weight = slope / slope.sum(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    moving = scores - (weight * scores).sum(1, keepdim=True)
    return ((distance + moving - moving.detach()) / temperature).sigmoid()
