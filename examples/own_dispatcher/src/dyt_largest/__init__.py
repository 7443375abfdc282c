"""`largest`: keeps the patch tokens with the largest norm, as many as the rate allows. No weights, no noise."""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from dyt import DyTError
from dyt.dispatchers import BuildContext, Decision, DecisionContext, Dispatcher, RatedSpec


class LargestSpec(RatedSpec):
    """`largest`: the patch tokens with the largest norm."""

    type: str = "largest"
    order: PositiveFloat = 2.0
    """Order of the norm; 2 is the Euclidean one."""


class Largest(Dispatcher):
    """Needs no decorator: the entry point in pyproject.toml registers it."""

    Spec = LargestSpec

    def __init__(self, spec: LargestSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        if spec.level != "token":
            raise DyTError(f"dispatcher.level is '{spec.level}'; 'largest' compares tokens of one image: use 'token'")
        self.rate = context.rate if spec.rate is None else spec.rate
        self.order = spec.order

    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        norms = torch.linalg.vector_norm(tokens.detach().float(), self.order, dim=-1)
        if context.padding is not None:
            norms = norms.masked_fill(context.padding, -1.0)
        kept = norms.topk(round(self.rate * norms.shape[1]), dim=1).indices
        active = torch.zeros_like(norms, dtype=torch.bool).scatter(1, kept, True)
        return Decision(active)
