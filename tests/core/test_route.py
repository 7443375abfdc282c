"""Route and Tokens: what they count and who sees whom."""

import dataclasses

import pytest
import torch

from dyt.core.route import Route, Tokens, activation_rate, mean_token

T, F = True, False


def test_counts_leave_prefix_and_padding_out() -> None:
    active = torch.tensor([[T, T, F, T, F], [T, F, F, F, F]])
    padding = torch.tensor([[F, F, F, F, T], [F, F, F, T, T]])
    counted, total = Route(active, 1).counts()
    assert (counted.tolist(), total.tolist()) == ([2, 0], [4, 4])
    counted, total = Route(active & ~padding, 1, padding=padding).counts()
    assert (counted.tolist(), total.tolist()) == ([2, 0], [3, 2])
    assert counted.dtype == total.dtype == torch.float32


def test_the_rate_is_weighted_by_count_and_differentiable() -> None:
    gate = torch.tensor([[1.0, 1.0, 0.0]], requires_grad=True)
    routes = [Route(gate.bool(), 1, gate), Route(torch.ones(1, 5, dtype=torch.bool), 1)]
    active, total = activation_rate(routes)
    assert (active.item(), total.item()) == (5.0, 6.0)
    active.backward()
    assert gate.grad is not None
    assert gate.grad.tolist() == [[0.0, 1.0, 1.0]]
    assert not total.requires_grad


def test_no_patches_at_all() -> None:
    counted, total = Route(torch.ones(2, 1, dtype=torch.bool), 1).counts()
    assert (counted.tolist(), total.tolist()) == ([0, 0], [0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mask_carries_the_gate_s_gradient(dtype: torch.dtype) -> None:
    gate = torch.tensor([[1.0, 0.0]], requires_grad=True)
    mask = Route(gate.bool(), 0, gate).mask(dtype)
    assert (mask.shape, mask.dtype) == ((1, 2, 1), dtype)
    (mask.float() * torch.tensor([[[3.0], [5.0]]])).sum().backward()
    assert gate.grad is not None
    assert gate.grad.tolist() == [[3.0, 5.0]]
    assert not Route(gate.bool(), 0).mask(dtype).requires_grad


def test_the_complete_route() -> None:
    x, padding = torch.zeros(2, 3, 4), torch.tensor([[F, F, T], [F, F, F]])
    route = Route.all(x, 1)
    assert route.dense
    assert bool(route.active.all())
    padded = Route.all(x, 1, padding)
    assert not padded.dense
    assert torch.equal(padded.active, ~padding)


def test_an_invalid_token_is_seen_by_itself_only() -> None:
    assert Tokens().sees() is None
    sees = Tokens(valid=torch.tensor([[T, F, T], [F, F, F]])).sees()
    assert sees is not None
    assert sees.shape == (2, 1, 3, 3)
    assert sees[0, 0].tolist() == [[T, F, T], [T, T, T], [T, F, T]]
    assert sees[1, 0].tolist() == torch.eye(3, dtype=torch.bool).tolist()


def test_they_are_frozen() -> None:
    for value in (Route(torch.ones(1, 1, dtype=torch.bool), 0), Tokens()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.valid = None  # type: ignore[union-attr,misc]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_token_is_float32_and_leaves_padding_out(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 33, 4) + 3).to(dtype)
    padding = torch.arange(33) >= torch.tensor([[33], [20], [0]])
    torch.testing.assert_close(mean_token(x), x.float().mean(1, keepdim=True))
    found = mean_token(x.masked_fill(padding[..., None], torch.inf), padding)
    assert found.dtype == torch.float32
    assert found.shape == (3, 1, 4)
    torch.testing.assert_close(found[1, 0], x[1, :20].float().mean(0))
    assert not found[2].any()


def test_what_stands_for_an_image_is_the_class_token_or_the_mean_of_real_patches() -> None:
    """Counted by hand: with padding, with one real patch, and with none, which is 0 and not 0 / 0."""
    entered = torch.tensor(
        [[[1.0], [2.0], [6.0], [100.0]], [[7.0], [8.0], [9.0], [10.0]], [[4.0], [5.0], [6.0], [7.0]]]
    )
    padding = torch.tensor([[F, F, F, T], [T, T, T, T], [T, F, T, T]])
    active = torch.ones(3, 4, dtype=torch.bool)
    assert Route(active, 1, entered=entered, padding=padding).summary().tolist() == [[1.0], [7.0], [4.0]]
    assert Route(active, 0, entered=entered, padding=padding).summary().tolist() == [[3.0], [0.0], [5.0]]
    assert Route(active, 0, entered=entered).summary().tolist() == [[27.25], [8.5], [5.5]]
    bf16 = Route(active, 0, entered=entered.bfloat16(), padding=padding).summary()
    assert bf16.dtype == torch.float32


def test_the_patches_of_all_images_are_rows_without_prefix_and_padding() -> None:
    entered = torch.arange(12.0).reshape(2, 3, 2)
    active, padding = torch.ones(2, 3, dtype=torch.bool), torch.tensor([[F, T, F], [F, F, F]])
    rows = [[[2.0, 3.0], [4.0, 5.0], [8.0, 9.0], [10.0, 11.0]], [[4.0, 5.0], [8.0, 9.0], [10.0, 11.0]]]
    assert Route(active, 1, entered=entered).patches().tolist() == rows[0]
    assert Route(active, 1, entered=entered, padding=padding).patches().tolist() == rows[1]


def test_the_mean_of_one_real_token_is_that_token() -> None:
    """And of none it is zero."""
    x = torch.randn(2, 3, 4)
    padding = torch.tensor([[True, False, True], [True, True, True]])
    found = mean_token(x, padding)
    assert torch.equal(found[0, 0], x[0, 1])
    assert not found[1].any()
