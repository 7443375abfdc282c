"""`sparse` gives the branch only what is active, and is refused where a branch draws."""

import pytest
import torch
from torch import Tensor

import dyt
from dyt.core.route import Route
from dyt.executors import Sparse
from dyt.executors.sparse import rounded
from laws.models import masks, tiny

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_branch_is_given_active_tokens_only() -> None:
    active = torch.tensor([[True, False, True], [False, False, True]])
    seen = []

    def branch(y: Tensor) -> Tensor:
        seen.append(y.numel() // y.shape[-1])
        return y

    Sparse().pointwise(branch, torch.randn(2, 3, 4), Route(active, 0))
    assert sum(seen) == 3


class Counted:
    """A branch that counts the rows that it is given."""

    rows = 0

    def __call__(self, y: Tensor) -> Tensor:
        raise AssertionError("onto alone is asked for")

    def onto(self, y: Tensor, out: Tensor) -> Tensor:
        self.rows += y.shape[0]
        return out + y


def test_active_rows_alone_are_written_and_in_place() -> None:
    active = torch.tensor([[True, False, True], [False, False, True]])
    x, out, branch = torch.randn(2, 3, 4), torch.zeros(2, 3, 4), Counted()
    got = Sparse().onto(branch, x, Route(active, 0), out)
    assert branch.rows == 3
    assert got.data_ptr() == out.data_ptr()
    assert torch.equal(got, x * active[..., None])


@pytest.mark.parametrize("kind", ["none", "one", "all", "ragged"])
def test_no_branch_is_skipped_or_run_twice(kind: str) -> None:
    """The MLP of each block is called at most once, on the rounded number of active tokens."""
    model = tiny()
    given_masks = masks(model, X, [kind], 3)
    seen: dict[int, list[int]] = {i: [] for i in range(len(model.sites))}
    for i, block in enumerate(model.backbone.blocks):
        block.mlp.register_forward_hook(lambda _, args, out, i=i: seen[i].append(out.numel() // out.shape[-1]))
    with torch.no_grad(), dyt.forced(model, given_masks), dyt.execution(model, "sparse"):
        model(X)
    assert [sum(seen[i]) for i in seen] == [rounded(int(mask.sum()), mask.numel()) for mask in given_masks]


@pytest.mark.parametrize("args", [{"drop_path_rate": 0.2}, {"proj_drop_rate": 0.2}])
def test_it_is_refused_in_train_mode_while_the_branch_draws(args: dict[str, float]) -> None:
    model = tiny(args).train()
    with dyt.execution(model, "sparse"), pytest.raises(dyt.UnsupportedError, match="drop path or dropout above 0"):
        model(X)
    with dyt.execution(model.eval(), "sparse"):
        model(X)


@pytest.mark.parametrize("args", [{}, {"attn_drop_rate": 0.2, "pos_drop_rate": 0.2}])
def test_it_runs_in_train_mode_where_the_branch_draws_nothing(args: dict[str, float]) -> None:
    model = tiny(args, adapter={"type": "bottleneck", "dim": 8, "dropout": 0.0}).train()
    found = {}
    for execution in ("masked", "sparse"):
        torch.manual_seed(0)
        with dyt.execution(model, execution):
            found[execution] = model(X)
    torch.testing.assert_close(found["sparse"], found["masked"], atol=1e-5, rtol=1e-5)


class Plain:
    """A branch that keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, y: Tensor) -> Tensor:
        self.seen.append(y)
        return y * 2

    def onto(self, y: Tensor, out: Tensor) -> Tensor:
        return out + self(y)


def test_rows_are_not_written_in_place_where_the_gate_has_a_gradient() -> None:
    active = torch.tensor([[True, False, True], [False, False, True]])
    gate, x, out = active.float().requires_grad_(), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    before = out.clone()
    got = Sparse().onto(Plain(), x, Route(active, 0, gate), out)
    assert torch.equal(out, before)
    torch.testing.assert_close(got, out + 2 * x * active[..., None])
    got.sum().backward()
    assert gate.grad is not None
    torch.testing.assert_close(gate.grad, 2 * x.sum(-1) * active)


def test_a_dense_route_is_added_as_it_is() -> None:
    x, out, branch = torch.randn(2, 3, 4), torch.randn(2, 3, 4), Plain()
    got = Sparse().onto(branch, x, Route.all(x, 0), out)
    assert branch.seen[0] is x
    torch.testing.assert_close(got, out + 2 * x)


@pytest.mark.parametrize("images", [0, 2])
@pytest.mark.parametrize("exact", [True, False])
def test_a_mixing_branch_is_not_run_where_nothing_is_active(exact: bool, images: int) -> None:
    def branch(y: Tensor, tokens: object) -> Tensor:
        raise AssertionError("there is nothing to compute")

    x, active = torch.randn(images, 5, 4), torch.zeros(images, 5, dtype=torch.bool)
    assert torch.equal(Sparse(exact).mixing(branch, x, Route(active, 0)), torch.zeros_like(x))
