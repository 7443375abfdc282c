"""The laws for one component alone, on toy branches and tokens; each a plain function of one example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dyt.core.context import BuildContext, ModelKey, changed
from dyt.core.route import ALL_TOKENS, Route, Tokens
from dyt.model.site import Site
from dyt.registry import adapters, dispatchers, executors
from dyt.testing.laws import require

METHODS = ("pointwise", "mixing")


def attention(x: Tensor, tokens: Tokens) -> Tensor:
    """Unparametrised self-attention that also depends on original positions, over the tokens that may be seen."""
    scores = (x @ x.mT).unsqueeze(1)
    sees = tokens.sees()
    if sees is not None:
        scores = scores.masked_fill(~sees, -torch.inf)
    index = torch.arange(x.shape[1]).expand(x.shape[:2]) if tokens.index is None else tokens.index
    return scores.softmax(-1).squeeze(1) @ x + index.unsqueeze(-1).to(x.dtype) * 0.1


def mixing_sees_active_tokens_alone(executor: str, x: Tensor, active: Tensor) -> None:
    """Law 2: `mixing` equals the branch run on each image's gathered tokens; 0 at inactive ones."""
    expected = torch.zeros_like(x)
    for i, on in enumerate(active):
        index = on.nonzero().T
        if index.numel():
            expected[i, on] = attention(x[i : i + 1, on], Tokens(index))[0]
    out = executors.get(executor)().mixing(attention, x, Route(active, 0))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    require((out[~active] == 0).all(), "an inactive token has a contribution other than 0")


def pointwise_zeroes_the_rest(executor: str, x: Tensor, active: Tensor) -> None:
    """Law 2: `pointwise` equals the branch at active tokens, and is 0 at inactive ones."""
    out = executors.get(executor)().pointwise(lambda y: y.tanh() + 1, x, Route(active, 0))
    expected = torch.where(active[..., None], x.tanh() + 1, torch.zeros(()))
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)  # of other shapes, which a CPU may round otherwise
    require((out[~active] == 0).all(), "an inactive token has a contribution other than 0")


class _Shifted:
    """tanh(x) + 1, which can also add itself to what it overwrites."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.tanh() + 1

    def onto(self, x: Tensor, out: Tensor) -> Tensor:
        return out.add_(x.tanh() + 1)


def onto_adds_the_branch_at_active_tokens(executor: str, x: Tensor, active: Tensor) -> None:
    """Law 2: `onto` adds the branch at active tokens and leaves the others as they are, also where x is overwritten."""
    branch, expected = _Shifted(), torch.where(active[..., None], x * 2 + (x.tanh() + 1), x * 2)
    gates = [None, active.float()]
    for gate in gates:
        out = executors.get(executor)().onto(branch, x, Route(active, 0, gate), x * 2)
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)
    own = x.clone()
    out = executors.get(executor)().onto(branch, own, Route(active, 0), own)
    torch.testing.assert_close(out, torch.where(active[..., None], x + (x.tanh() + 1), x), atol=1e-6, rtol=1e-6)
    dense = executors.get(executor)().onto(branch, x, Route.all(x, 0), x * 2)
    torch.testing.assert_close(dense, x * 2 + (x.tanh() + 1), atol=1e-6, rtol=1e-6)


def dense_runs_the_branch_as_it_is(executor: str, method: str, x: Tensor) -> None:
    """Law 2: a route that is dense costs nothing: the branch is run on x itself."""
    fn: Any = attention if method == "mixing" else torch.tanh
    expected = attention(x, ALL_TOKENS) if method == "mixing" else x.tanh()
    out = getattr(executors.get(executor)(), method)(fn, x, Route.all(x, 0))
    require(torch.equal(out, expected), f"{method} of a dense route is not the branch's own output")


def gradients_equal_masked(executor: str, method: str, x: Tensor, active: Tensor) -> None:
    """Law 2: gradients of x everywhere, and of the gate where a token is active; `masked` alone has it elsewhere."""
    if not active.any():
        return
    found = {}
    for name in ("masked", executor):
        y, gate = x.clone().requires_grad_(), active.float().requires_grad_()
        fn: Any = attention if method == "mixing" else torch.tanh
        out = getattr(executors.get(name)(), method)(fn, y, Route(active, 0, gate))
        (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
        require(y.grad is not None and gate.grad is not None, f"{method}: no gradient reaches the tokens or the gate")
        assert gate.grad is not None
        found[name] = y.grad, gate.grad[active]
    torch.testing.assert_close(found[executor], found["masked"], atol=1e-5, rtol=1e-5)


def padding_is_inactive(
    dispatcher: Mapping[str, Any], seed: int, prefix: int, training: bool, complete: bool = False
) -> None:
    """Law 5: padding tokens are never active nor counted, and what stands in them changes no decision."""
    torch.manual_seed(seed)
    chosen, none = dispatchers.get(dispatcher["type"]), adapters.get("none")
    both = (executors.get("masked")(), executors.get("sparse")())
    parts = chosen(chosen.Spec(**dispatcher), BuildContext(8)), none(none.Spec(), 8)
    key = ModelKey()
    site = Site(0, "blocks.0.mlp", *parts, prefix, key, both).train(training)
    x, padding = torch.randn(3, prefix + 6, 8), torch.rand(3, prefix + 6) < 0.4
    padding[:, :prefix] = False
    scores = torch.rand(3, 6)

    def attended() -> Tensor:
        return scores

    with changed(key, complete=complete):
        route = site(x, padding, attended)
        torch.manual_seed(seed + 1)
        first = site(x, padding, attended)
        torch.manual_seed(seed + 1)
        other = site(torch.where(padding[..., None], torch.full_like(x, 1e3), x), padding, attended)
    require(not (route.active & padding).any(), "a padding token is active")
    require(route.active[:, :prefix].all(), "a prefix token is not active")
    require(not (route.dense and padding.any()), "a route with padding calls itself dense")
    require(route.gate is None or (route.gate[padding] == 0).all(), "a padding token's gate is not 0")
    require(torch.equal(first.active, other.active), "what stands in padding tokens changes the route of the others")
    counted, total = route.counts()
    require(total.tolist() == (~padding[:, prefix:]).sum(1).tolist(), "padding tokens are counted in the rate")
    require(counted.tolist() == route.active[:, prefix:].sum(1).tolist(), "the rate counts something beside patches")


def adapter_starts_at_zero(adapter: Mapping[str, Any], seed: int, training: bool) -> None:
    """Law 1: a fresh adapter adds exactly nothing, in train mode as well."""
    torch.manual_seed(seed)
    chosen = adapters.get(adapter["type"])
    delta = chosen(chosen.Spec(**adapter), 8).train(training)(torch.randn(2, 5, 8), None)
    require(delta is None or delta.shape == (2, 5, 8), "the delta has another shape than the tokens")
    require(delta is None or not delta.any(), "a fresh adapter adds something other than 0")


def adapter_leaves_padding_out(adapter: Mapping[str, Any], seed: int) -> None:
    """Law 5: what stands in padding tokens changes no other token's delta."""
    torch.manual_seed(seed)
    chosen = adapters.get(adapter["type"])
    module = chosen(chosen.Spec(**adapter), 8).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        x, padding = torch.randn(3, 6, 8), torch.rand(3, 6) < 0.4
        padding[:, 0] = False
        first = module(x, padding)
        other = module(torch.where(padding[..., None], torch.full_like(x, 1e3), x), padding)
    if first is None or other is None:
        require(first is other, "the adapter adds something for some tokens and nothing for others")
        return
    torch.testing.assert_close(other[~padding], first[~padding], atol=1e-5, rtol=1e-5)
