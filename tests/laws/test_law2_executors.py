"""Law 2: every executor equals `masked` under the same masks; mixing branches see the gathered active tokens alone."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dyt
from dyt.core.route import Route
from dyt.registry import executors, families
from dyt.testing import laws, parts
from laws.models import Case, masks, spec
from laws.strategies import batches, cases, chosen, mask_kinds, names

each_executor = pytest.mark.parametrize("name", names("executors"))


@pytest.mark.parametrize("variant", names("variants"))
@each_executor
@given(case=cases(), kinds=mask_kinds, data=st.data())
def test_equals_masked(variant: str, name: str, case: Case, kinds: list[str], data: st.DataObject) -> None:
    laws.executor_equals_masked(case, data.draw(chosen(variant=variant)), name, kinds)


@pytest.mark.parametrize("dispatcher", names("dispatchers"))
@each_executor
@given(data=st.data())
def test_a_dispatcher_s_own_routes(dispatcher: str, name: str, data: st.DataObject) -> None:
    case = data.draw(cases(dispatcher=dispatcher))
    laws.own_routes_equal_masked(case, data.draw(chosen(dispatcher=dispatcher)), name)


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


@each_executor
@given(batch=batches())
def test_mixing_sees_the_gathered_tokens_alone(name: str, batch: tuple[Tensor, Tensor]) -> None:
    parts.mixing_sees_active_tokens_alone(name, *batch)


@each_executor
@given(batch=batches())
def test_pointwise_computes_active_tokens_and_zeroes_the_rest(name: str, batch: tuple[Tensor, Tensor]) -> None:
    parts.pointwise_zeroes_the_rest(name, *batch)


@each_executor
@given(batch=batches())
def test_onto_adds_active_tokens_and_leaves_the_rest(name: str, batch: tuple[Tensor, Tensor]) -> None:
    parts.onto_adds_the_branch_at_active_tokens(name, *batch)


@each_executor
@pytest.mark.parametrize("method", parts.METHODS)
@given(batch=batches())
def test_a_dense_route_runs_the_branch_as_it_is(name: str, method: str, batch: tuple[Tensor, Tensor]) -> None:
    parts.dense_runs_the_branch_as_it_is(name, method, batch[0])


@each_executor
@pytest.mark.parametrize("method", parts.METHODS)
@given(batch=batches())
def test_gradients_at_active_tokens_equal_masked(name: str, method: str, batch: tuple[Tensor, Tensor]) -> None:
    parts.gradients_equal_masked(name, method, *batch)


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
