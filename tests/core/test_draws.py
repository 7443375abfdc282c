"""What is drawn for the images of a step is the same, whichever of several processes an image is on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dyt.core.draws import Dropout, divided
from dyt.dispatchers.base import bernoulli
from dyt.dispatchers.sampling import gumbel_difference

X = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0))
DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": Dropout(0.3),
    "router noise": lambda x: gumbel_difference(x[..., 0]),
    "random tokens": lambda x: bernoulli(x, 0.5),
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_processes_are_together_what_one_draws(name: str, world: int) -> None:
    draw = DRAWN[name]

    def drawn(x: Tensor) -> list[Tensor]:
        torch.manual_seed(7)
        return [draw(x), draw(x)]  # the second as well, so that each leaves the generator where one process does

    shares = []
    for rank, x in enumerate(X.chunk(world)):
        with divided(rank, world):
            shares.append(drawn(x))
    for whole, *parts in zip(drawn(X), *shares, strict=True):
        assert torch.equal(whole, torch.cat(parts))
        assert not torch.equal(parts[0], parts[1])


def test_dropout_is_torch_s() -> None:
    """Its mask has the gradient, it keeps the dtype, and in eval mode, or with nothing to drop, x is as it was."""
    dropout, x = Dropout(0.5), X.double().requires_grad_()
    with divided(1, 2):
        out = dropout(x)
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert torch.equal(out, x * grad)
        assert set(grad.unique().tolist()) == {0.0, 2.0}
        assert out.dtype == torch.float64
        assert Dropout(0.0)(x) is x
        assert torch.equal(dropout.eval()(x), x)
