"""The pure functions that families gather with, against loops."""

import pytest
import torch
from torch import nn

from dyt.core.route import Tokens
from dyt.families.attention import gather_pairs, gather_rope, mask_for, outputs, unseen

INDEX = torch.tensor([[0, 2, 3], [0, 1, 4]])
X = torch.zeros(2, 3, 8)


@pytest.mark.parametrize("shape", [(5, 5), (4, 5, 5), (1, 4, 5, 5), (2, 1, 5, 5), (2, 4, 5, 5), (2, 1, 1, 5)])
def test_pairs_are_looked_up_at_original_positions(shape: tuple[int, ...]) -> None:
    bias = torch.randn(shape)
    whole = bias.expand(2, 4, 5, 5)
    found = gather_pairs(bias, INDEX).expand(2, 4, 3, 3)
    for image in range(2):
        for i, query in enumerate(INDEX[image]):
            for j, key in enumerate(INDEX[image]):
                assert torch.equal(found[image, :, i, j], whole[image, :, query, key])
    assert torch.equal(gather_pairs(bias, None).expand(2, 4, 5, 5), whole)


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6), (2, 1, 4, 6), (2, 3, 4, 6)])
def test_rope_is_gathered_for_patch_tokens(shape: tuple[int, ...]) -> None:
    rope = torch.randn(shape)
    found = gather_rope(rope, Tokens(INDEX), 1)
    for image in range(2):
        mine = rope[image] if rope.ndim == 4 else rope
        assert torch.equal(found[image], mine[..., INDEX[image, 1:] - 1, :].reshape(-1, 2, 6))
    assert gather_rope(rope, Tokens(), 1) is rope
    second = Tokens(INDEX[1:], images=torch.tensor([1]))
    assert torch.equal(gather_rope(rope, second, 1)[0], found[1])


@pytest.mark.parametrize("shape", [(5, 5), (1, 4, 5, 5), (2, 1, 1, 5), (2, 4, 5, 5)])
def test_an_image_run_alone_has_its_own_rows(shape: tuple[int, ...]) -> None:
    bias, valid = torch.randn(shape), torch.tensor([[True, True, False], [True, False, True]])
    whole = mask_for(X, Tokens(INDEX, valid), bias)
    second = mask_for(X[1:], Tokens(INDEX[1:], valid[1:], torch.tensor([1])), bias)
    assert whole is not None
    assert second is not None
    assert torch.equal(second, whole[1:])


def test_no_mask_where_everything_is_seen() -> None:
    assert mask_for(X, Tokens()) is None
    assert mask_for(X, Tokens(INDEX)) is None


@pytest.mark.parametrize("bias", [torch.full((1, 1, 5, 5), -torch.inf), torch.zeros(1, 1, 5, 5, dtype=torch.bool)])
def test_an_invalid_token_sees_itself_whatever_the_mask_says(bias: torch.Tensor) -> None:
    """Its row is discarded, but an empty one would be NaN, which no multiplication by zero undoes."""
    valid = torch.tensor([[True, True, False], [True, False, False]])
    mask = mask_for(X, Tokens(INDEX, valid), bias)
    assert mask is not None
    seen = mask if mask.dtype == torch.bool else mask > -torch.inf
    for image in range(2):
        for query in range(3):
            own = [query] if not valid[image, query] else []
            assert seen[image, 0, query].nonzero().flatten().tolist() == own


def test_an_invalid_token_is_seen_by_no_other() -> None:
    valid = torch.tensor([[True, True, False], [True, False, False]])
    for bias in (None, torch.randn(2, 4, 5, 5), torch.ones(5, 5, dtype=torch.bool)):
        mask = mask_for(X, Tokens(INDEX, valid), bias)
        assert mask is not None
        seen = (mask if mask.dtype == torch.bool else mask > -torch.inf).expand(2, -1, 3, 3)
        assert torch.equal(seen[:, 0], (valid[:, None, :] | torch.eye(3, dtype=torch.bool)))
        if bias is not None and bias.is_floating_point():
            assert torch.equal(mask[0, :, 0, 1], bias[0, :, 0, 2])


def test_causal_order_is_that_of_positions() -> None:
    mask = mask_for(X, Tokens(INDEX), torch.ones(5, 5, dtype=torch.bool), is_causal=True)
    assert mask is not None
    assert torch.equal(mask.expand(2, 1, 3, 3)[0, 0], torch.ones(3, 3, dtype=torch.bool).tril())


@pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min, None])
def test_what_no_query_may_see_is_padding(low: float | None) -> None:
    """`None` stands for a bool mask. Token 2 of the first image is seen by no other; 3 is seen, though it sees none."""
    allowed = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    allowed[0, :, :, 2] = allowed[0, :, 3] = False
    mask = allowed if low is None else torch.zeros(2, 1, 4, 4).masked_fill(~allowed, low)
    x = torch.zeros(2, 4, 8)
    assert unseen(x, mask).tolist() == [[False, False, True, False], [False] * 4]
    assert unseen(x, None) is None
    assert unseen(x, torch.zeros(4, 4)).tolist() == [[False] * 4] * 2


@pytest.mark.parametrize("bias", [True, False])
def test_some_outputs_of_a_linear_map(bias: bool) -> None:
    linear, x = nn.Linear(8, 6, bias=bias), torch.randn(2, 3, 8)
    torch.testing.assert_close(outputs(linear, x, 2, 5), linear(x)[..., 2:5])
    swapped = nn.Sequential(linear, nn.Tanh())
    torch.testing.assert_close(outputs(swapped, x, 2, 5), swapped(x)[..., 2:5])
