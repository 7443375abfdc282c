"""`learned`: the paper's token dispatcher (eq. 3-5): a linear map, Gumbel-sigmoid in training, then a threshold."""

from __future__ import annotations

from torch import Tensor, nn

from dyt.config.schedules import Schedule, at
from dyt.core.context import BuildContext, DecisionContext
from dyt.core.scores import Router, linear_scores
from dyt.dispatchers import sampling
from dyt.dispatchers.base import Decision, Dispatcher
from dyt.dispatchers.scored import ScoredSpec
from dyt.registry import dispatchers


class LearnedSpec(ScoredSpec):
    """`learned`: the paper's token dispatcher; `noise` and `bias` are remedies for short runs."""

    type: str = "learned"
    bias: Schedule = 0.0
    """The router's bias at the start of training; 0 in the paper. Above 0, training starts with more tokens active. A
    ramp is read over depth in place of training, from the first site to the last."""


@dispatchers("learned")
class Learned(Dispatcher):
    """A token is active iff its logit X W_g + b, plus noise in training, is above the site's threshold (0 by default).

    With threshold 0 that is sigmoid(X W_g + b) > 0.5, as in the paper. Logits and noise are float32, also under
    autocast.
    """

    Spec = LearnedSpec

    def __init__(self, spec: LearnedSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.temperature, self.noise = spec.temperature, spec.noise
        self.router = Router(context.dim, 1)
        nn.init.trunc_normal_(self.router.weight, std=0.02)
        nn.init.constant_(self.router.bias, at(spec.bias, context.depth))

    def logits(self, tokens: Tensor) -> Tensor:
        """(B, P) float32 logits of tokens (B, P, C)."""
        return linear_scores(self.router, tokens)

    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        logits = self.logits(tokens)
        excess = logits - context.threshold.float()
        if not context.training:
            return Decision(excess > 0, logits=logits)
        scale = at(self.noise, context.progress)
        noise = sampling.gumbel_difference(excess.detach()) * scale if scale > 0 else None
        active, gate = sampling.gumbel_sigmoid(excess, noise, at(self.temperature, context.progress))
        return Decision(active, gate, logits)
