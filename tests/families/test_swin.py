"""`swin` and `swin_v2`: which models of timm, what of a block's own methods stays, what is refused and why."""

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock

import dyt
from dyt.families import find
from dyt.measure.plots import layer_labels
from families.zoo_hierarchical import HIERARCHICAL, SWIN
from laws.models import CLASSES, masks, spec


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("swin_tiny_patch4_window7_224", "swin"),
        ("swin_base_patch4_window7_224", "swin"),
        ("swin_large_patch4_window12_384", "swin"),
        ("swin_s3_tiny_224", "swin"),
        ("swinv2_tiny_window8_256", "swin_v2"),
        ("swinv2_base_window12to16_192to256", "swin_v2"),
        ("swinv2_large_window12_192", "swin_v2"),
    ],
)
def test_models_of_timm(name: str, family: str) -> None:
    support = dyt.supports(name)
    assert (support.family, support.variants) == (family, ("mlp",))
    assert set(support.refused) == {"attn", "attn_mlp", "layer"}
    assert all("whole windows" in reason and "use the mlp variant" in reason for reason in support.refused.values())


class Changed(SwinTransformerBlock):
    """A block whose forward is its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_one_strange_block_is_enough() -> None:
    backbone = HIERARCHICAL["swin"].backbone()
    backbone.layers[1].blocks[0] = Changed(32, (4, 4))
    assert find(backbone) is None


@pytest.mark.parametrize("name", ["swin", "swin_v2"])
def test_sites_are_named_and_sized_by_stage(name: str) -> None:
    tiny = HIERARCHICAL[name]
    model = dyt.build(spec(), backbone=tiny.backbone())
    sites = [site.name for site in model.sites]
    assert sites == [f"layers.{i}.blocks.{j}.mlp" for i in (0, 1) for j in (0, 1)]
    assert layer_labels(sites) == ["1.1", "1.2", "2.1", "2.2"]
    assert [site.adapter.down.in_features for site in model.sites] == [16, 16, 32, 32]
    assert [mask.shape[1] for mask in masks(model, tiny.images(), ["all"], 0)] == [64, 64, 16, 16]


@pytest.mark.parametrize("name", ["swin", "swin_v2"])
def test_the_image_size_can_be_set_afterwards(name: str) -> None:
    """timm asks each block to resize its windows, a method that the dynamic block has from the original one."""
    tiny = HIERARCHICAL[name]
    plain, backbone = tiny.backbone(), tiny.backbone()
    model = dyt.build(spec(), backbone=backbone)
    for swin in (plain, backbone):
        swin.set_input_size((64, 64), window_size=4)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), dyt.execution(model, "complete"):
        torch.testing.assert_close(model(x), plain(x))


def test_post_norm_blocks_have_no_normalised_input_for_adapters() -> None:
    adapter = {"type": "bottleneck", "input": "normalised"}
    dyt.build(spec(adapter=adapter), backbone=HIERARCHICAL["swin"].backbone())
    with pytest.raises(dyt.UnsupportedError, match="does not start with a norm of its own"):
        dyt.build(spec(adapter=adapter), backbone=HIERARCHICAL["swin_v2"].backbone())


def test_a_swin_is_made_from_its_spec() -> None:
    args = SWIN | {"depths": [2, 2], "num_heads": [2, 4]}
    model = dyt.build(spec(backbone={"name": "swin_tiny_patch4_window7_224", "weights": "none", "args": args}))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, CLASSES)


def test_unknown_methods_are_still_unknown() -> None:
    block = dyt.build(spec(), backbone=HIERARCHICAL["swin"].backbone()).backbone.layers[0].blocks[0]
    assert callable(block.set_input_size)
    with pytest.raises(AttributeError, match="no attribute 'set_everything'"):
        _ = block.set_everything


def test_other_swins_are_answered_with_a_reason() -> None:
    assert timm.is_model("swinv2_cr_tiny_224")
    assert "no family knows" in dyt.supports("swinv2_cr_tiny_224").refused["mlp"]
