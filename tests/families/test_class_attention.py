"""The class token's attention equals what timm's own attention computes, read from inside it."""

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import dyt
from dyt.variants.base import DynamicBlock
from laws.models import TINY, shaken, spec

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def maps(backbone: nn.Module, x: Tensor, **kwargs: Any) -> list[Tensor]:
    """The attention (B, H, N, N) of each block of a plain backbone, as its dropout sees it on timm's unfused path."""
    seen: list[Tensor] = []
    hooks = []
    for module in backbone.modules():
        if hasattr(module, "fused_attn") and hasattr(module, "attn_drop"):
            module.fused_attn = False
            hooks.append(module.attn_drop.register_forward_hook(lambda m, i, o: seen.append(o)))
    with torch.no_grad():
        backbone.forward_features(x, **kwargs)
    for hook in hooks:
        hook.remove()
    return seen


def rows(model: dyt.DynamicModel, x: Tensor, **kwargs: Any) -> list[Tensor]:
    """The family's answer at each block, for the tokens that enter it when everything is active."""
    found: list[Tensor] = []

    def ask(block: nn.Module, args: Any, kwargs: Any) -> None:
        assert isinstance(block, DynamicBlock)
        found.append(block.family.class_attention(block, *args, **kwargs))

    hooks = [
        module.register_forward_pre_hook(ask, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, DynamicBlock)
    ]
    with torch.no_grad(), dyt.execution(model, "complete"):
        model.forward_features(x, **kwargs)
    for hook in hooks:
        hook.remove()
    return found


def check(backbone: nn.Module, prefix: int, x: Tensor = X, **kwargs: Any) -> None:
    expected = maps(backbone, x, **kwargs)
    model = dyt.build(spec(), backbone=backbone)
    found = rows(model, x, **kwargs)
    assert len(found) == len(expected) == len(model.sites)
    for row, whole in zip(found, expected, strict=True):
        assert row.dtype == torch.float32
        torch.testing.assert_close(row, whole.mean(1)[:, 0, prefix:], atol=1e-5, rtol=1e-4)
        assert row.std() > 1e-4  # an attention that is the same everywhere would prove nothing


@pytest.mark.parametrize(
    ("args", "prefix"),
    [
        ({}, 1),
        ({"qk_norm": True, "reg_tokens": 4, "scale_attn_norm": True}, 5),
        ({"qkv_bias": False, "pre_norm": True, "global_pool": "avg"}, 1),
    ],
)
def test_vit(args: dict[str, Any], prefix: int) -> None:
    check(random_vit(**args), prefix)


@pytest.mark.parametrize("kind", ["bool", "float", "keys", "causal"])
def test_vit_with_an_attention_mask(kind: str) -> None:
    allowed = torch.rand(3, 1, 17, 17, generator=torch.Generator().manual_seed(1)) < 0.7
    allowed |= torch.eye(17, dtype=torch.bool)
    given: dict[str, Any] = {
        "bool": {"attn_mask": allowed},
        "float": {"attn_mask": torch.randn(17, 17, generator=torch.Generator().manual_seed(1))},
        "keys": {"attn_mask": allowed[:, :, :1]},
        "causal": {"is_causal": True},
    }[kind]
    if kind == "causal":
        model = dyt.build(spec(), backbone=random_vit())
        assert all(bool((row == 0).all()) for row in rows(model, X, **given))  # it comes first: it sees itself alone
    else:
        check(random_vit(), 1, **given)


def test_a_projection_swapped_by_another_library_is_what_runs() -> None:
    backbone = random_vit()
    for block in backbone.blocks:
        block.attn.qkv = nn.Sequential(block.attn.qkv, nn.Tanh())
    check(backbone, 1)


def test_a_distilled_model_ranks_by_its_class_token() -> None:
    backbone = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5, **TINY)
    check(shaken(backbone), 2)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_base_patch16_siglip_224", "it has no class token"),
        ("vit_medium_patch16_gap_240", "it has no class token"),
        ("vit_tiny_patch16_224", "DiffAttention has no one map of attention"),
    ],
)
def test_where_there_is_none_the_reason_is_told(name: str, reason: str) -> None:
    args = TINY | ({"attn_layer": "diff"} if name == "vit_tiny_patch16_224" else {})
    found = dyt.families.find(timm.create_model(name, num_classes=5, **args))
    assert found is not None
    assert found[1].attention_refusal(timm.create_model(name, num_classes=5, **args)) == reason


def random_vit(**args: Any) -> nn.Module:
    return shaken(VisionTransformer(num_classes=5, **(TINY | args)).eval(), 0.2)
