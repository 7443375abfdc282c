"""The noise is a difference of two Gumbels (a logistic); straight-through is exact; the Gumbel-sigmoid is eq. 5."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyt.dispatchers.sampling import gumbel_difference, gumbel_sigmoid, straight_through


def test_the_noise_is_logistic() -> None:
    noise = gumbel_difference(torch.empty(400, 1000)).flatten()
    size = noise.numel()
    for point in (-4.0, -1.5, -0.3, 0.0, 0.7, 2.0, 5.0):
        expected = 1 / (1 + math.exp(-point))
        error = math.sqrt(expected * (1 - expected) / size)
        assert (noise <= point).float().mean().item() == pytest.approx(expected, abs=4 * error)
    assert noise.mean().item() == pytest.approx(0.0, abs=4 * math.pi / math.sqrt(3 * size))
    assert noise.var().item() == pytest.approx(math.pi**2 / 3, rel=0.02)
    neighbours = torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1]
    assert abs(neighbours.item()) < 4 / math.sqrt(size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_noise_is_like_its_argument_and_finite(dtype: torch.dtype) -> None:
    like = torch.full((200, 500), math.nan, dtype=dtype)
    noise = gumbel_difference(like)
    assert (noise.dtype, noise.shape) == (dtype, like.shape)
    assert bool(torch.isfinite(noise).all())
    assert bool(like.isnan().all())
    assert not torch.equal(noise, gumbel_difference(like))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=20))
def test_straight_through_is_exact(pairs: list[tuple[bool, float]]) -> None:
    hard = torch.tensor([h for h, _ in pairs])
    soft = torch.tensor([s for _, s in pairs], requires_grad=True)
    gate = straight_through(hard, soft)
    assert torch.equal(gate, hard.float())
    weights = torch.arange(1.0, len(pairs) + 1)
    (gate * weights).sum().backward()
    assert soft.grad is not None
    assert torch.equal(soft.grad, weights)


@given(temperature=st.floats(0.1, 10), seed=st.integers(0, 1000), noisy=st.booleans())
def test_the_gumbel_sigmoid_and_its_gradient(temperature: float, seed: int, noisy: bool) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(3, 4, requires_grad=True)
    noise = torch.randn(3, 4) if noisy else None
    active, gate = gumbel_sigmoid(logits, noise, temperature)
    excess = logits.detach() + (noise if noise is not None else 0)
    assert torch.equal(active, excess > 0)
    assert torch.equal(gate, active.float())
    upstream = torch.randn(3, 4)
    (gate * upstream).sum().backward()
    s = torch.sigmoid(excess / temperature)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, upstream * s * (1 - s) / temperature)


def test_a_logit_on_the_threshold_is_inactive() -> None:
    active, _ = gumbel_sigmoid(torch.zeros(1, 1), None, 1.0)
    assert not bool(active)
