"""The numbers of rows that products are given: few, never too few, little more, and without effect."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dyt.core.route import Route, Tokens
from dyt.executors import Masked, Sparse, SparseBackward
from dyt.executors.sparse import STEPS, filled, rounded

ACTIVE = torch.rand(4, 65, generator=torch.Generator().manual_seed(1)) < 0.45
"""Of 260 tokens, whose step is 9; the tests say where it matters that the number of active ones is no multiple."""


@given(total=st.integers(0, 10**7), share=st.floats(0, 1))
def test_a_count_is_rounded_up_by_less_than_a_step(total: int, share: float) -> None:
    count = int(share * total)
    found = rounded(count, total)
    assert count <= found <= total
    assert found - count <= total / STEPS
    assert rounded(found, total) == found
    assert (found == 0) == (count == 0)
    assert rounded(total, total) == total


@pytest.mark.parametrize("total", [0, 1, 31, 32, 197, 6304, 100_003])
def test_there_are_few_numbers_of_rows(total: int) -> None:
    sizes = {rounded(count, total) for count in range(total + 1)}
    assert len(sizes) <= 32
    assert total > STEPS or len(sizes) == total + 1


def test_positions_are_filled_up_with_the_first() -> None:
    index = torch.tensor([5, 7, 90])
    assert filled(index, 310).tolist() == [5, 7, 90, *[5] * 7]
    assert filled(index, 31) is index
    assert filled(index[:0], 310).tolist() == []


def unlike(y: Tensor) -> Tensor:
    """A branch that is not finite at what inactive tokens hold, in these tests."""
    return y.exp().sqrt() * 3


@pytest.mark.parametrize("executor", [Sparse(), Sparse(exact=True), SparseBackward()])
def test_inactive_tokens_never_enter(executor: Sparse | SparseBackward) -> None:
    """Neither values nor gradients: added rows are active tokens', and take no gradient back."""
    x = torch.randn(*ACTIVE.shape, 3, generator=torch.Generator().manual_seed(0))
    x[~ACTIVE] = torch.nan
    x.requires_grad_()
    weight = torch.ones(3, requires_grad=True)
    out = executor.pointwise(lambda y: unlike(y) * weight, x, Route(ACTIVE, 0))
    assert not out[~ACTIVE].any()
    torch.testing.assert_close(out[ACTIVE], unlike(x.detach()[ACTIVE]))
    out.sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(x.grad[ACTIVE], unlike(x.detach()[ACTIVE]) / 2)
    assert not x.grad[~ACTIVE].any()
    torch.testing.assert_close(weight.grad, unlike(x.detach()[ACTIVE]).sum(0))


@pytest.mark.parametrize("executor", [Sparse(), SparseBackward()])
def test_added_rows_take_no_gradient(executor: Sparse | SparseBackward) -> None:
    active = int(ACTIVE.sum())
    assert rounded(active, ACTIVE.numel()) > active, "the masks were to leave rows over"
    came: list[Tensor] = []

    def branch(y: Tensor) -> Tensor:
        out = y * 2
        if out.requires_grad:
            out.register_hook(came.append)
        return out

    x = torch.randn(*ACTIVE.shape, 3, requires_grad=True)
    gate = ACTIVE.float().requires_grad_()
    executor.pointwise(branch, x, Route(ACTIVE, 0, gate)).sum().backward()
    (rows,) = (each.reshape(-1, 3) for each in came)
    assert len(rows) == rounded(active, ACTIVE.numel())
    assert bool((rows[:active] == 1).all())
    assert not rows[active:].any()


def test_gradients_are_those_of_masked_where_both_groups_have_added_rows() -> None:
    numbers = [int(ACTIVE.sum()), int((~ACTIVE).sum())]
    assert all(rounded(number, ACTIVE.numel()) > number for number in numbers)
    found = []
    for executor in (SparseBackward(), Masked()):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(*ACTIVE.shape, 3, generator=generator).requires_grad_()
        weight = torch.randn(3, 3, generator=generator).requires_grad_()
        gate = ACTIVE.float().requires_grad_()
        out = executor.pointwise(lambda y, w=weight: (y @ w).tanh(), x, Route(ACTIVE, 0, gate))
        (out * torch.randn(out.shape, generator=generator)).sum().backward()
        found.append((out, x.grad, weight.grad, gate.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("executor", [Sparse(), SparseBackward()])
@pytest.mark.parametrize("gated", [False, True])
def test_none_active_takes_no_row(executor: Sparse | SparseBackward, gated: bool) -> None:
    active = torch.zeros(4, 65, dtype=torch.bool)
    seen: list[tuple[int, bool]] = []

    def branch(y: Tensor) -> Tensor:
        seen.append((y.shape[1], torch.is_grad_enabled()))
        return y * 2

    gate = active.float().requires_grad_() if gated else None
    out = executor.pointwise(branch, torch.ones(4, 65, 3), Route(active, 0, gate))
    assert not out.any()
    assert [rows for rows, graph in seen if graph] == [0]


@pytest.mark.parametrize(("exact", "length"), [(True, 2), (False, 7)])
def test_images_of_one_length_are_told_what_is_padding(exact: bool, length: int) -> None:
    """With 197 tokens a step is 7: two active tokens are seven rows, and nobody sees the five added."""
    active = torch.zeros(2, 197, dtype=torch.bool)
    active[:, [3, 90]] = True
    seen: list[Tokens] = []

    def branch(y: Tensor, tokens: Tokens) -> Tensor:
        seen.append(tokens)
        return y

    x = torch.randn(2, 197, 3)
    out = Sparse(exact).mixing(branch, x, Route(active, 0))
    assert torch.equal(out, x * active[..., None])
    (tokens,) = seen
    assert tokens.index is not None
    assert tokens.index.shape == (2, length)
    assert tokens.index[:, :2].tolist() == [[3, 90]] * 2
    if exact:
        assert tokens.valid is None
    else:
        assert tokens.valid is not None
        assert tokens.valid.tolist() == [[True, True, *[False] * 5]] * 2
