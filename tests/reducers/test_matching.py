"""Bipartite soft matching and merging equal a slow reference, conserve sizes and keep the order."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from dyt.reducers.matching import matching, merge
from reducers.reference import matched, merged


@given(st.integers(1, 3), st.integers(0, 9), st.integers(0, 6), st.integers(0, 2**16))
def test_equals_the_reference(batch: int, count: int, r: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    metric = torch.randn(batch, count, 5, generator=generator)
    x, sizes = torch.randn(batch, count, 4, generator=generator), torch.rand(batch, count, generator=generator) * 9 + 1
    places, left = matching(metric, r), count - min(r, count // 2)
    out, counted = merge(x, sizes, places, left)
    assert out.shape == (batch, left, 4)
    torch.testing.assert_close(counted.sum(1), sizes.sum(1))
    torch.testing.assert_close((out * counted[..., None]).sum(1), (x * sizes[..., None]).sum(1), atol=1e-4, rtol=1e-4)
    for i in range(batch if count else 0):
        tokens, total = merged(x[i], sizes[i].tolist(), matched(metric[i], r))
        torch.testing.assert_close(out[i], tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(counted[i], torch.tensor(total))


def test_what_stays_keeps_its_order() -> None:
    metric = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0], [0.7, 0.7]]])
    assert matching(metric, 0).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert matching(metric, 2).tolist() == [[0, 0, 1, 1, 2, 3]]  # 1 goes into 0 and 3 into 2; the rest moves up


def test_equal_tokens_are_merged_by_place() -> None:
    assert matching(torch.tensor([1.0, 0.0]).expand(1, 6, 2), 1).tolist() == [[0, 0, 1, 2, 3, 4]]
    assert torch.equal(matching(torch.zeros(2, 4, 3), 1), torch.tensor([[0, 0, 1, 2]] * 2))


def test_the_gradient_is_that_of_the_average() -> None:
    x = torch.randn(1, 3, 2, requires_grad=True)
    out, _ = merge(x, torch.tensor([[1.0, 3.0, 1.0]]), torch.tensor([[0, 0, 1]]), 2)
    out[0, 0].sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([[[0.25, 0.25], [0.75, 0.75], [0.0, 0.0]]]))
