"""TokenReduction: what a block does about the number of tokens, with what travels beside them from block to block."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dyt.core import context
from dyt.core.context import DecisionContext
from dyt.core.route import Tokens
from dyt.errors import DyTError
from dyt.reducers.base import Carried, Reduced, Reducer


class TokenState(threading.local):
    """The forward that the present thread is in the middle of; one for each model, shared by its reductions.

    A forward never changes threads, and no other thread's can be seen. Not a ContextVar, which torch.compile cannot
    set. What the branches compute with is passed to them, so that recomputation in the backward pass needs none of it.
    A copied or loaded model gets one of its own, shared by its reductions.
    """

    carried: Carried | None = None

    def __reduce__(self) -> tuple[type[TokenState], tuple[()]]:
        return TokenState, ()


class TokenReduction(nn.Module):
    """One per block of a model that has a reducer, with the reducer where one acts in the block.

    Args:
        name: of the block, `blocks.3`; stored keys are `reducers.<name>.predictor.embed.0.weight` and so on.
        reducer: what acts here, or None.
        prefix: number of prefix tokens.
        key: the identity of the model, for forward contexts.
        state: the model's, the same for all its reductions.
        first: whether a forward starts here.
        last: whether it ends here.
        whole: whether the head reads patch tokens, all of which it is then given.
    """

    def __init__(
        self,
        name: str,
        reducer: Reducer | None,
        prefix: int,
        key: context.ModelKey,
        state: TokenState,
        first: bool,
        last: bool,
        whole: bool,
    ) -> None:
        super().__init__()
        self.name, self.prefix, self.key, self.state = name, prefix, key, state
        self.first, self.last, self.whole = first, last, whole
        self.reducer = reducer

    def extra_repr(self) -> str:
        return self.name

    @property
    def needs_keys(self) -> bool:
        """Whether the block's attention is asked for its keys."""
        return self.reducer is not None and self.reducer.needs_keys

    def reducer_state(self) -> dict[str, Tensor]:
        """The live tensors of the reducer that acts here; none where none does."""
        return {} if self.reducer is None else self.reducer.state_dict(keep_vars=True)

    def enter(self, x: Tensor) -> Tensor:
        """The tokens that the block works on, for those that are passed to it, (B, N, C)."""
        if self.first:
            self.state.carried = Carried(x.shape[1] - self.prefix)
        return self._reduced("entry", x)

    def tokens(self) -> Tokens:
        """What the block's attention is told about its tokens."""
        return Tokens(bias=self._carried().bias())

    def middle(self, x: Tensor, attention: Callable[[], Tensor], keys: Tensor | None) -> Tensor:
        """The tokens that the MLP is given, for those after the attention, (B, N, C), whose keys are (B, N, D)."""
        return self._reduced("middle", x, attention, keys)

    def dropped(self) -> Tensor | None:
        """(B, N) bool, True at dropped tokens that still hold their place; None when there are none."""
        kept = self._carried().kept
        return None if kept is None else kept == 0

    def leave(self, x: Tensor) -> Tensor:
        """The tokens that the block passes on, (B, N, C); for a head that reads patch tokens, each patch's own."""
        if not self.last:
            return x
        carried, self.state.carried = self._carried(), None
        if not self.whole or carried.source is None:
            return x
        index = carried.source + self.prefix
        everywhere = x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return torch.cat([x[:, : self.prefix], everywhere], 1)

    def _reduced(
        self, where: str, x: Tensor, attention: Callable[[], Tensor] | None = None, keys: Tensor | None = None
    ) -> Tensor:
        now = context.current(self.key)
        if self.reducer is None or self.reducer.where != where or now.plain:
            return x
        decision_context = DecisionContext(
            self.training and not now.complete, attention=attention, prefix=self.prefix, keys=keys
        )
        reduced: Reduced = self.reducer(x, self._carried(), decision_context)
        self.state.carried = reduced.carried
        if reduced.penalty is not None:
            for penalties in now.penalties:
                penalties.append(reduced.penalty)
        return reduced.x

    def _carried(self) -> Carried:
        if self.state.carried is None:
            raise DyTError(f"{self.name} was run without the blocks before it, which tell the sizes of its tokens")
        return self.state.carried
