"""The adapter in one kernel: what `FoldedAdapter` computes, and its router's logits, in one pass over the tokens."""

from __future__ import annotations

from timm.layers import get_act_fn  # type: ignore[attr-defined]
from torch import Tensor, nn

from dyt.core.offloading import at_hand
from dyt.executors.triton.operators import adapted, joined
from dyt.inference.rewrites.adapter import FoldedAdapter

ACTIVATIONS = ("relu", "gelu")


class KernelAdapter(FoldedAdapter):
    """x + Adapter(x) and the logits, by a kernel of Triton's; logits are float32 whatever the tokens are.

    Args:
        adapter: what it computes; its modules are taken over.
        activation: of `ACTIVATIONS`.
    """

    joins = True

    def __init__(self, adapter: FoldedAdapter, activation: str) -> None:
        nn.Module.__init__(self)
        self.placement, self.input, self.activation = adapter.placement, adapter.input, adapter.activation
        self.units, self.router, self.down, self.up = adapter.units, adapter.router, adapter.down, adapter.up
        self.width = adapter.width
        self.named = activation

    @staticmethod
    def activation_of(adapter: FoldedAdapter) -> str | None:
        """The name of an adapter's activation, where the kernel has it."""
        return next((name for name in ACTIVATIONS if adapter.activation is get_act_fn(name)), None)

    def added(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        with at_hand(self.down), at_hand(self.up):
            out, logits = adapted(_rows(x), *self._weights(), self.named)
        return out.reshape(x.shape), self._logits(logits, x)

    def joined(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if branch.dtype != x.dtype:  # under autocast
            return super().joined(x, branch)
        with at_hand(self.down), at_hand(self.up):
            after, out, logits = joined(_rows(x), _rows(branch), *self._weights(), self.named)
        return after.reshape(x.shape), out.reshape(x.shape), self._logits(logits, x)

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        down, up, router = self.down, self.up, self.router
        weight, bias = (None, None) if router is None else (router.weight, router.bias)
        return down.weight[: self.units], down.bias[: self.units], up.weight, up.bias, weight, bias

    def _logits(self, logits: Tensor, x: Tensor) -> Tensor | None:
        return None if self.router is None else logits.reshape(x.shape[:-1])


def _rows(x: Tensor) -> Tensor:
    """(T, C), contiguous."""
    return x.reshape(-1, x.shape[-1]).contiguous()
