"""ToMe equals a reference on whole models, with LayerScale and qk-norm; proportional attention is what it says."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import dyt
from dyt.core.route import Tokens
from dyt.registry import families
from laws.models import Case, spec
from reducers.reference import attention, tome

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
STATIC = {"dispatcher": "always", "adapter": "none"}
VITS = [
    {},
    {"qk_norm": True, "init_values": 0.3, "qkv_bias": False, "reg_tokens": 2},
    {"class_token": False, "global_pool": "avg", "scale_attn_norm": True},
    {"global_pool": "avg", "pre_norm": True},
]


def backbone(**args: Any) -> nn.Module:
    return Case(ARGS | args, (32, 32), 3, 0).backbone()


X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("args", VITS)
@pytest.mark.parametrize("fused", [True, False])
def test_equals_the_reference(args: dict[str, Any], fused: bool) -> None:
    plain: Any = backbone(**args)
    for block in plain.blocks:
        block.attn.fused_attn = fused
    model = dyt.build(spec(reducer={"type": "tome", "r": 3}, **STATIC), backbone=copy.deepcopy(plain))
    with torch.no_grad():
        logits, features = model(X), model.forward_features(X)
        for i, image in enumerate(X):
            tokens, sizes = tome(plain, image, 3)
            assert sum(sizes) == 16
            x = plain.norm(tokens)
            if args.get("global_pool") == "avg":
                weight = torch.tensor(sizes)[:, None]
                pooled = (x[plain.num_prefix_tokens :] * weight).sum(0) / 16
                assert features.shape[1] == 16 + plain.num_prefix_tokens  # every patch has its token again
            else:
                pooled = x[0]
                torch.testing.assert_close(features[i], x, atol=2e-5, rtol=2e-5)
            expected = plain.head(plain.fc_norm(pooled))
            torch.testing.assert_close(logits[i], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("args", [*VITS, {"global_pool": "map", "class_token": False}])
def test_without_merging_it_is_the_plain_model(args: dict[str, Any]) -> None:
    plain = backbone(**args)
    model = dyt.build(spec(reducer={"type": "tome", "r": 0}, **STATIC), backbone=copy.deepcopy(plain))
    with torch.no_grad():
        torch.testing.assert_close(model(X), plain(X), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.forward_features(X), plain.forward_features(X), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("args", [{}, {"qk_norm": True, "init_values": 0.3}])
def test_proportional_attention_is_attention_over_copies(args: dict[str, Any]) -> None:
    block = backbone(**args).blocks[0]  # type: ignore[index, union-attr]
    x, times = torch.randn(1, 4, 32), torch.tensor([1, 3, 1, 2])
    tokens = Tokens(bias=times.float().log()[None, None])
    with torch.no_grad():
        found = families.get("vit")().attn(block, x, tokens)
        copies = block.ls1(block.attn(block.norm1(x.repeat_interleave(times, dim=1))))
    first = torch.tensor([0, 1, 4, 5])
    torch.testing.assert_close(found, copies[:, first], atol=1e-5, rtol=1e-5)


def test_attention_pooling_reads_every_patch_s_token() -> None:
    """Pooling over all patches' tokens is proportional attention pooling over the merged ones."""
    plain: Any = backbone(class_token=False, global_pool="map")
    model = dyt.build(spec(reducer={"type": "tome", "r": 3}, **STATIC), backbone=copy.deepcopy(plain))
    with torch.no_grad():
        tokens, sizes = tome(plain, X[0], 3)
        bias = torch.tensor(sizes).log()[None, None, None]
        pooled = plain.attn_pool(plain.norm(tokens)[None], attn_mask=bias)
        torch.testing.assert_close(model(X[:1]), plain.head(plain.fc_norm(pooled)), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("args", [{}, {"qk_norm": True}])
def test_the_keys_are_those_of_the_attention(args: dict[str, Any]) -> None:
    block, family, x = backbone(**args).blocks[0], families.get("vit")(), torch.randn(2, 5, 32)  # type: ignore[index, union-attr]
    family.listen(block)
    family.listen(block)
    with torch.no_grad():
        out, keys = family.attn_with_keys(block, x, Tokens())
        expected = attention(block, x[1], torch.zeros(()))
    torch.testing.assert_close(out[1], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(keys[1], expected[1].mean(0), atol=1e-5, rtol=1e-5)
    assert not keys.requires_grad


def test_sizes_need_not_weigh_in_attention() -> None:
    logits = {}
    for proportional in (True, False):
        chosen = {"type": "tome", "r": 4, "proportional": proportional}
        model = dyt.build(spec(reducer=chosen, **STATIC), backbone=backbone())
        with torch.no_grad(), dyt.record(model) as routes:
            logits[proportional] = model(X)
        assert [route.active.shape[1] for route in routes] == [13, 9, 5]
    assert not torch.allclose(logits[True], logits[False], atol=1e-4)


def test_one_number_for_each_block() -> None:
    model = dyt.build(spec(reducer={"type": "tome", "r": [8, 0, 99]}, **STATIC), backbone=backbone())
    with torch.no_grad(), dyt.record(model) as routes:
        model(X)
    assert [route.active.shape[1] - 1 for route in routes] == [8, 8, 4]
    with pytest.raises(dyt.SpecError, match=r"reducer.r: 2 numbers given for 3 blocks; give one, or one for each"):
        dyt.build(spec(reducer={"type": "tome", "r": [8, 0]}, **STATIC), backbone=backbone())
