"""Law 2: every executor equals `masked` under the same masks; mixing branches see the gathered active tokens alone."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dyt
from dyt.registry import executors, families
from dyt.route import Route, Tokens
from laws.models import Case, masks, shaken, spec
from laws.strategies import LAYOUTS, SEEDS, cases, components, mask_kinds, names

each_executor = pytest.mark.parametrize("name", names("executors"))


@pytest.mark.parametrize("variant", names("variants"))
@each_executor
@given(case=cases(), kinds=mask_kinds, data=st.data())
def test_equals_masked(variant: str, name: str, case: Case, kinds: list[str], data: st.DataObject) -> None:
    chosen = {"variant": {"type": variant}, "adapter": data.draw(components("adapters"))}
    model, x = shaken(dyt.build(spec(**chosen), backbone=case.backbone())), case.images()
    given_masks, out = masks(model, x, kinds, case.seed), {}
    with torch.no_grad(), case.precision(), dyt.forced(model, given_masks):
        for execution in ("masked", name):
            with dyt.execution(model, execution), dyt.record(model) as routes:
                out[execution] = model(x)
            assert all(torch.equal(r.active, m) for r, m in zip(routes, given_masks, strict=True))
            assert not any(bool(r.active[:, r.prefix :].all()) and r.dense for r in routes)
    assert out[name].dtype == out["masked"].dtype
    case.close(out[name], out["masked"])


@each_executor
@given(case=cases(dtypes=("float32",)), kinds=mask_kinds)
def test_a_block_equals_its_branches_on_gathered_tokens(name: str, case: Case, kinds: list[str]) -> None:
    """The reference is written without the library: timm's block, each image's active tokens picked by hand."""
    backbone, x = case.backbone(), case.images()
    plain = copy.deepcopy(backbone)
    model = dyt.build(spec(), backbone=backbone)
    given_masks = masks(model, x, kinds, case.seed)
    with torch.no_grad():
        tokens = plain.norm_pre(plain.patch_drop(plain._pos_embed(plain.patch_embed(x))))
        for block, mask in zip(plain.blocks, given_masks, strict=True):
            tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))
            for image, on in zip(tokens, mask, strict=True):
                image[on] += block.drop_path2(block.ls2(block.mlp(block.norm2(image[on][None]))))[0]
        expected = plain.forward_head(plain.norm(tokens))
        with dyt.forced(model, given_masks), dyt.execution(model, name):
            case.close(model(x), expected)


# Executors alone, on toy branches: what variants and families not yet written will rely on


def attention(x: Tensor, tokens: Tokens) -> Tensor:
    """Unparametrised self-attention that also depends on original positions, over the tokens that may be seen."""
    scores = (x @ x.mT).unsqueeze(1)
    sees = tokens.sees()
    if sees is not None:
        scores = scores.masked_fill(~sees, -torch.inf)
    index = torch.arange(x.shape[1]).expand(x.shape[:2]) if tokens.index is None else tokens.index
    return scores.softmax(-1).squeeze(1) @ x + index.unsqueeze(-1).to(x.dtype) * 0.1


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """x (B, N, C) in any layout and active (B, N); zero, one and all active tokens included."""
    generator = torch.Generator().manual_seed(draw(SEEDS))
    batch, count, dim = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.sampled_from([1, 4, 6]))
    x = torch.randn(batch, count, dim, generator=generator)
    x = x.mT.contiguous().mT if draw(st.sampled_from(LAYOUTS)) != "contiguous" else x
    density = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.2, 0.6, 1.1]), min_size=batch, max_size=batch)))
    return x, torch.rand(batch, count, generator=generator) < density[:, None]


@each_executor
@given(batch=batches())
def test_mixing_sees_the_gathered_tokens_alone(name: str, batch: tuple[Tensor, Tensor]) -> None:
    x, active = batch
    expected = torch.zeros_like(x)
    for i, on in enumerate(active):
        index = on.nonzero().T
        if index.numel():
            expected[i, on] = attention(x[i : i + 1, on], Tokens(index))[0]
    out = executors.get(name)().mixing(attention, x, Route(active, 0))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert bool((out[~active] == 0).all())


@each_executor
@given(batch=batches())
def test_pointwise_computes_active_tokens_and_zeroes_the_rest(name: str, batch: tuple[Tensor, Tensor]) -> None:
    x, active = batch
    out = executors.get(name)().pointwise(lambda y: y.tanh() + 1, x, Route(active, 0))
    assert torch.equal(out, torch.where(active[..., None], x.tanh() + 1, torch.zeros(())))


@each_executor
@pytest.mark.parametrize("method", ["pointwise", "mixing"])
@given(batch=batches())
def test_a_dense_route_runs_the_branch_as_it_is(name: str, method: str, batch: tuple[Tensor, Tensor]) -> None:
    x, _ = batch
    fn = attention if method == "mixing" else torch.tanh
    expected = attention(x, Tokens()) if method == "mixing" else x.tanh()
    assert torch.equal(getattr(executors.get(name)(), method)(fn, x, Route.all(x, 0)), expected)


@each_executor
@pytest.mark.parametrize("method", ["pointwise", "mixing"])
@given(batch=batches())
def test_gradients_at_active_tokens_equal_masked(name: str, method: str, batch: tuple[Tensor, Tensor]) -> None:
    """Of x everywhere, and of the gate where a token is active; `masked` alone also has it at inactive ones."""
    x, active = batch
    if not active.any():
        return
    found = {}
    for execution in ("masked", name):
        y, gate = x.clone().requires_grad_(), active.float().requires_grad_()
        fn = attention if method == "mixing" else torch.tanh
        out = getattr(executors.get(execution)(), method)(fn, y, Route(active, 0, gate))
        (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
        assert y.grad is not None
        assert gate.grad is not None
        found[execution] = y.grad, gate.grad[active]
    torch.testing.assert_close(found[name], found["masked"], atol=1e-5, rtol=1e-5)


@each_executor
@given(case=cases(dtypes=("float32",)), kind=st.sampled_from(["one", "random", "ragged", "none"]))
def test_the_family_s_attention_equals_timm_s_on_gathered_tokens(name: str, case: Case, kind: str) -> None:
    backbone = case.backbone()
    block, family = backbone.blocks[0], families.get("vit")()
    generator = torch.Generator().manual_seed(case.seed)
    x = torch.randn(case.batch, 7, backbone.embed_dim, generator=generator)
    density = {"none": -1.0, "random": 0.5, "one": -1.0, "ragged": float(torch.rand((), generator=generator))}[kind]
    active = torch.rand(x.shape[:2], generator=generator) < density
    if kind == "one":
        active[:, 3] = True
    expected = torch.zeros_like(x)
    with torch.no_grad():
        for i, on in enumerate(active):
            if on.any():
                expected[i, on] = block.ls1(block.attn(block.norm1(x[i : i + 1, on])))[0]
        out = executors.get(name)().mixing(lambda y, t: family.attn(block, y, t), x, Route(active, 0))
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=2e-5)
