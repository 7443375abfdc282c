"""`masked` is the path with gradients: the straight-through gradient reaches every token."""

import torch

from dyt.core.route import Route
from dyt.executors import Masked


def test_the_gate_s_gradient_is_the_branch_s_output_everywhere() -> None:
    x = torch.randn(2, 3, 4)
    gate = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    Masked().pointwise(torch.exp, x, Route(gate.bool(), 0, gate)).sum().backward()
    assert gate.grad is not None
    torch.testing.assert_close(gate.grad, x.exp().sum(-1))


def test_keys_carry_no_gradient() -> None:
    """In a mixing branch the gate enters by multiplying the output, never through who sees whom."""
    gate = torch.tensor([[1.0, 0.0, 1.0]], requires_grad=True)
    seen = []

    def branch(y: torch.Tensor, tokens: object) -> torch.Tensor:
        seen.append(tokens)
        return y * 2

    x = torch.randn(1, 3, 4)
    Masked().mixing(branch, x, Route(gate.bool(), 0, gate)).sum().backward()
    assert gate.grad is not None
    torch.testing.assert_close(gate.grad, 2 * x.sum(-1))
    assert not seen[0].valid.requires_grad  # type: ignore[attr-defined]
    assert seen[0].index is None  # type: ignore[attr-defined]
