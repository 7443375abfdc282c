"""`attention`: a fixed number of active tokens per image, those that the class token attends to (EViT, 2202.07800)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from dyt.core.context import BuildContext, DecisionContext
from dyt.dispatchers.base import Decision, Dispatcher
from dyt.dispatchers.counted import CountedSpec, largest, number
from dyt.registry import dispatchers


class AttentionSpec(CountedSpec):
    """`attention`: the patch tokens that the class token attends to most (EViT, arXiv:2202.07800)."""

    type: str = "attention"


@dispatchers("attention")
class Attention(Dispatcher):
    """The k patch tokens with the largest class-token attention, the mean over heads, at the block's input.

    Nothing is learned, and training decides as inference does. Of equal attentions the first are taken. A backbone
    whose family cannot tell the class token's attention is refused when the model is built.
    """

    Spec = AttentionSpec
    needs_attention: ClassVar[bool] = True

    def __init__(self, spec: AttentionSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.count, self.rate = spec.count, context.rate if spec.rate is None else spec.rate

    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        assert context.attention is not None, "given by the block to a dispatcher that needs it"
        # Not under no_grad: autocast would keep the weights that it casts there, cut off from their gradient.
        attention = context.attention().detach()
        wanted = number(tokens, context.padding, self.rate, self.count)
        return Decision(largest(attention, wanted, context.padding))
