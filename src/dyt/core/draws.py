"""Random numbers for the images of a training step, the same whichever process an image is on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn
from torch.nn import functional as F

_PLACE: ContextVar[tuple[int, int]] = ContextVar("dyt_place_of_draws", default=(0, 1))
"""(this process, processes), among which the images of a step are divided in order."""


@contextmanager
def divided(rank: int, world: int) -> Iterator[None]:
    """Inside, what is drawn for images is this process's share of what one process would draw for those of all.

    Every process must have seeded its generator alike, and have as many images.
    """
    token = _PLACE.set((rank, world))
    try:
        yield
    finally:
        _PLACE.reset(token)


def share(draw: Callable[[Sequence[int]], Tensor], shape: Sequence[int]) -> Tensor:
    """What `draw` gives for a shape (B, ...), B this process's images.

    Drawn for all processes' images, of which only the own part is kept: numbers are cheap beside a forward.
    """
    rank, world = _PLACE.get()
    if world == 1:
        return draw(shape)
    images = shape[0]
    return draw((world * images, *shape[1:]))[rank * images : (rank + 1) * images].clone()


class Dropout(nn.Dropout):
    """torch's, but where a step's images are `divided` each has the mask that it would have in one process.

    In: (B, ...) with the images first; out: the same shape and dtype.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x, with a share p of its values set to 0 and the others divided by 1 - p; in eval mode x itself."""
        if not self.training or self.p == 0 or _PLACE.get()[1] == 1:
            return super().forward(x)
        return x * share(lambda shape: F.dropout(x.new_ones(shape), self.p), x.shape)
