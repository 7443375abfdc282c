"""The class token's attention under an attention mask, and where a projection was swapped; the rest is in test_zoo."""

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import dyt
from families.reading import maps, rows
from laws.models import TINY, shaken, spec

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def check(backbone: nn.Module, prefix: int, x: Tensor = X, **kwargs: Any) -> None:
    expected = maps(backbone, x, **kwargs)
    found = rows(dyt.build(spec(), backbone=backbone), x, **kwargs)
    assert len(found) == len(expected) > 0
    for row, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(row, whole.mean(1)[:, 0, prefix:], atol=1e-5, rtol=1e-4)
        assert row.std() > 1e-4


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


def random_vit(**args: Any) -> nn.Module:
    return shaken(VisionTransformer(num_classes=5, **(TINY | args)).eval(), 0.2)
