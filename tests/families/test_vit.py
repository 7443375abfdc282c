"""`vit` knows timm's VisionTransformer with its plain Block, and nothing that only looks like it."""

import dataclasses
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import nn

import dyt
from dyt.families import find
from families.test_zoo import close, reference, some
from families.test_zoo import spec as zoo_spec
from families.zoo import ZOO
from laws.models import TINY, spec


class Changed(Block):
    """A block whose forward is its own."""

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return x


class ChangedResPost(ResPostBlock):
    """Another block whose forward is its own."""

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return x


@pytest.mark.parametrize("block", [Changed, ChangedResPost])
def test_other_blocks_are_refused_before_anything_changes(block: type[nn.Module]) -> None:
    backbone = VisionTransformer(**TINY, num_classes=5, block_fn=block)
    before = [id(module) for module in backbone.modules()]
    with pytest.raises(
        dyt.UnsupportedError, match=f"no family knows the blocks of VisionTransformer.*{block.__name__}"
    ):
        dyt.build(spec(), backbone=backbone)
    assert [id(module) for module in backbone.modules()] == before
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_one_strange_block_is_enough() -> None:
    backbone = VisionTransformer(**TINY, num_classes=5)
    backbone.blocks[1] = Changed(32, 2)
    assert find(backbone) is None


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("deit_tiny_distilled_patch16_224", 2),
        ("vit_small_patch14_reg4_dinov2", 5),
        ("vit_base_patch16_siglip_224", 0),
        ("vit_base_patch16_clip_224", 1),
        ("vit_medium_patch16_reg1_gap_256", 1),
        ("vit_so150m_patch16_reg4_gap_256", 4),
    ],
)
def test_models_of_timm(name: str, prefix: int) -> None:
    assert "mlp" in dyt.supports(name)
    args = {"img_size": 28, "patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2}
    plain = timm.create_model(name, num_classes=5, **args).eval()
    x = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = plain(x)
        model = dyt.build(spec(), backbone=plain)
        assert {site.prefix for site in model.sites} == {prefix}
        with dyt.execution(model, "complete"):
            torch.testing.assert_close(model(x), expected)


def test_blocks_of_two_kinds_are_known_by_none() -> None:
    backbone = VisionTransformer(**TINY, num_classes=5)
    backbone.blocks[1] = ResPostBlock(32, 2)
    assert find(backbone) is None


@pytest.mark.parametrize("variant", ["attn", "attn_mlp", "layer", "mlp"])
@pytest.mark.parametrize("kind", ["bool", "float", "keys", "causal"])
def test_an_attention_mask_is_gathered_with_the_tokens(variant: str, kind: str) -> None:
    """What the backbone is given beside the images reaches the branches, at the active tokens' positions."""
    generator = torch.Generator().manual_seed(1)
    allowed = (torch.rand(3, 1, 17, 17, generator=generator) < 0.7) | torch.eye(17, dtype=torch.bool)
    given = {
        "bool": {"attn_mask": allowed},
        "float": {"attn_mask": torch.randn(3, 2, 17, 17, generator=generator)},
        "keys": {"attn_mask": torch.where(allowed[:, :, :1], 0.0, -torch.inf)},
        "causal": {"is_causal": True},
    }[kind]
    rows = given.get("attn_mask", torch.ones(1, 1, 17, 17, dtype=torch.bool).tril()).expand(3, -1, 17, 17)

    def alone(block: nn.Module, index: torch.Tensor, image: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"attn_mask": rows[image : image + 1][:, :, index][..., index]}

    animal = dataclasses.replace(ZOO["vit"], alone=alone)
    model = dyt.build(zoo_spec(variant), backbone=animal.backbone())
    x = torch.randn(3, 3, 32, 32, generator=generator)
    for fill in ("ragged", "none"):
        masks = some(model, x, fill)
        if kind == "keys":  # a token that no other may see is padding, and never active
            masks = [mask & (rows[:, 0, 0] == 0) for mask in masks]
            masks = [mask | (torch.arange(17) == 0) for mask in masks]
        with torch.no_grad():
            expected = reference(animal, variant, model, masks)(x, **given)
            for executor in ("masked", "sparse"):
                with dyt.forced(model, masks), dyt.execution(model, executor):
                    close(model(x, **given), expected)
