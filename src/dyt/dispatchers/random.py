"""`random`: each token, or image, is active with probability r, in fine-tuning and at inference (paper table 7)."""

from __future__ import annotations

from torch import Tensor

from dyt.config.schedules import Rate
from dyt.core.context import BuildContext, DecisionContext
from dyt.dispatchers.base import Decision, Dispatcher, RatedSpec, bernoulli
from dyt.registry import dispatchers


class RandomSpec(RatedSpec):
    """`random`: each token is active with the same probability (paper, table 7)."""

    type: str = "random"
    rate: Rate | None = None
    """Probability with which a token (at `level: sample`, an image) is active. Null takes `objective.rate`."""


@dispatchers("random")
class Random(Dispatcher):
    """Draws from torch's default generator of the device, so that `torch.manual_seed` makes it repeatable."""

    Spec = RandomSpec
    draws_at_inference = True

    def __init__(self, spec: RandomSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.rate = context.rate if spec.rate is None else spec.rate

    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        return Decision(bernoulli(tokens, self.rate))
