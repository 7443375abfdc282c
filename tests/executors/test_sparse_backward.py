"""`sparse_backward`: the numbers and gradients of `masked`, without a graph of inactive tokens' branches."""

import pytest
import torch
from torch import nn

from dyt.core.route import Route
from dyt.executors import Masked, SparseBackward
from dyt.executors.sparse import rounded


def run(executor, active, gated=True, dtype=torch.float32):
    """The branch's output, and gradients of tokens, gate and the branch's own weights."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*active.shape, 4, generator=generator).to(dtype).requires_grad_()
    torch.manual_seed(0)
    branch = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)).to(dtype)
    gate = active.float().requires_grad_() if gated else None
    out = executor.pointwise(branch, x, Route(active, 0, gate))
    weights = torch.randn(out.shape, generator=generator).to(dtype)
    (out * weights).sum().backward()
    return out, x.grad, None if gate is None else gate.grad, *(p.grad for p in branch.parameters())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_all_gradients_are_those_of_masked(share, gated, dtype):
    active = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < share
    for ours, wanted in zip(
        *(run(executor, active, gated, dtype) for executor in (SparseBackward(), Masked())), strict=True
    ):
        if not (ours is None and wanted is None):
            close = {} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.05}
            torch.testing.assert_close(ours, wanted, **close)


def test_inactive_tokens_have_a_gate_gradient_and_no_graph():
    active = torch.tensor([[True, False, False]])
    seen = []

    def branch(y):
        seen.append((y.shape[1], torch.is_grad_enabled()))
        return y * 3

    gate = active.float().requires_grad_()
    x = torch.ones(1, 3, 2, requires_grad=True)
    out = SparseBackward().pointwise(branch, x, Route(active, 0, gate))
    out.sum().backward()
    assert sorted(seen) == [(1, True), (2, False)]
    assert gate.grad.tolist() == [[6.0, 6.0, 6.0]]
    assert x.grad[0, :, 0].tolist() == [3.0, 0.0, 0.0]


def test_without_a_gradient_inactive_tokens_are_not_computed():
    active = torch.tensor([[True, False, True]])
    seen = []

    def branch(y):
        seen.append(y.shape[1])
        return y

    with torch.no_grad():
        out = SparseBackward().pointwise(branch, torch.ones(1, 3, 2), Route(active, 0, active.float()))
    assert seen == [2]
    assert out[0, :, 0].tolist() == [1.0, 0.0, 1.0]


def test_rows_that_are_added_to_a_product_have_no_gradient() -> None:
    """33 of 100 tokens take 36 rows; what the three more would send back is nobody's."""
    generator = torch.Generator().manual_seed(0)
    active = torch.zeros(1, 100, dtype=torch.bool)
    active[0, torch.randperm(100, generator=generator)[:33]] = True
    assert rounded(33, 100) == 36
    given = torch.randn(1, 100, 4, generator=generator)
    weight = torch.randn(4, 4, generator=generator)
    grads = []
    for executor in (Masked(), SparseBackward()):
        x, gate = given.clone().requires_grad_(), active.float().requires_grad_()
        out = executor.pointwise(lambda y: (y @ weight).tanh(), x, Route(active, 0, gate))
        grads.append(torch.autograd.grad(out.square().sum() + out.sum(), (x, gate)))
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected)
