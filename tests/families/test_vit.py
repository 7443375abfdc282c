"""`vit` knows timm's VisionTransformer with its plain Block, and nothing that only looks like it."""

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import nn

import dyt
from dyt.families import find
from laws.models import TINY, spec


class Changed(Block):
    """A block whose forward is its own."""

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return x


@pytest.mark.parametrize("block", [ParallelScalingBlock, ResPostBlock, Changed])
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


@pytest.mark.parametrize("name", ["swinv2_cr_tiny_224", "resnet18", "convnext_tiny", "vit_srelpos_small_patch16_224"])
def test_other_architectures_are_answered_with_a_reason(name: str) -> None:
    support = dyt.supports(name)
    assert not support
    assert support.family is None
    assert set(support.refused) == set(dyt.list("variants"))
    assert all("no family knows the blocks of" in reason for reason in support.refused.values())
