"""EViT keeps the patch tokens that the class token attends to most, in their order, and fuses the others."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dyt
from dyt.reducers import BuildContext, Carried, DecisionContext, EViT, EViTSpec
from laws.models import Case, spec
from reducers.reference import attention, evit

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
STATIC = {"dispatcher": "always", "adapter": "none"}
X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@given(st.integers(1, 12), st.floats(0.05, 1), st.integers(0, 3), st.integers(0, 2**16))
def test_keeps_what_a_sort_by_hand_keeps(count: int, keep: float, prefix: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, row = torch.randn(2, prefix + count, 4, generator=generator), torch.rand(2, count, generator=generator)
    reducer = EViT(EViTSpec(keep=keep), BuildContext(4))
    reduced = reducer.reduce(x, Carried(count), DecisionContext(False, prefix=prefix, attention=lambda: row))
    assert torch.equal(reduced.x[:, :prefix], x[:, :prefix])
    for i in range(2):
        torch.testing.assert_close(reduced.x[i, prefix:], evit(x[i, prefix:], row[i], keep), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("args", [{}, {"qk_norm": True, "init_values": 0.3, "reg_tokens": 2}])
def test_equals_the_reference_on_a_model(args: dict[str, Any]) -> None:
    plain: Any = Case(ARGS | args, (32, 32), 3, 0).backbone()
    model = dyt.build(spec(reducer={"type": "evit", "keep": 0.6}, **STATIC), backbone=copy.deepcopy(plain))
    prefix, counts = plain.num_prefix_tokens, []
    with torch.no_grad(), dyt.record(model) as routes:
        logits = model(X)
        for i, image in enumerate(X):
            x, counts = plain._pos_embed(plain.patch_embed(image[None]))[0], []
            for layer, block in enumerate(plain.blocks):
                branch, _, maps = attention(block, x, torch.zeros(()))
                x = x + branch
                if layer in (1, 2, 3):
                    row = maps.mean(0)[0, prefix:]
                    x = torch.cat([x[:prefix], evit(x[prefix:], row, 0.6)])
                x = x + block.ls2(block.mlp(block.norm2(x)))
                counts.append(len(x))
            torch.testing.assert_close(logits[i], plain.head(plain.norm(x)[0]), atol=2e-5, rtol=2e-5)
    assert [route.active.shape[1] for route in routes] == counts
    assert [count - prefix for count in counts] == [16, 11, 8, 6]


def test_without_fusing_and_with_everything_kept() -> None:
    plain = Case(ARGS, (32, 32), 3, 0).backbone()
    dropping = {"type": "evit", "layers": [0, 3], "keep": 0.5, "fuse": False}
    model = dyt.build(spec(reducer=dropping, **STATIC), backbone=copy.deepcopy(plain))
    with torch.no_grad(), dyt.record(model) as routes:
        model(X)
    assert [route.active.shape[1] - 1 for route in routes] == [8, 8, 8, 4]
    model = dyt.build(spec(reducer={"type": "evit", "keep": 1.0}, **STATIC), backbone=copy.deepcopy(plain))
    with torch.no_grad():
        assert torch.equal(model(X), plain(X))


def test_the_fused_token_s_weights_have_a_gradient() -> None:
    reducer, row = EViT(EViTSpec(keep=0.5), BuildContext(4)), torch.rand(1, 4, requires_grad=True)
    x = torch.randn(1, 5, 4)
    reducer.reduce(x, Carried(4), DecisionContext(True, prefix=1, attention=lambda: row)).x[:, -1].sum().backward()
    assert row.grad is not None
    dropped = row[0] < row[0].median().nextafter(torch.tensor(1.0))
    torch.testing.assert_close(row.grad[0], torch.where(dropped, x[0, 1:].sum(-1), torch.zeros(())))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": [3, 1]}, "ascending order"),
        ({"layers": []}, "ascending order"),
        ({"layers": [-1]}, "from 0"),
        ({"keep": 0.0}, "greater than 0"),
        ({"kep": 0.5}, "did you mean 'keep'"),
    ],
)
def test_a_wrong_spec_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(dyt.SpecError, match=message):
        dyt.build(spec(reducer={"type": "evit"} | fields, **STATIC), backbone=Case(ARGS, (32, 32), 3, 0).backbone())


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(dyt.SpecError, match=r"reducer.layers: no block 9; the backbone has blocks 0 to 3"):
        dyt.build(
            spec(reducer={"type": "evit", "layers": [3, 9]}, **STATIC), backbone=Case(ARGS, (32, 32), 3, 0).backbone()
        )
