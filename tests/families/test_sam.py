"""`sam`: which models of timm; images of any size; a head of two layers keeps its norm."""

import pytest
import torch

import dyt
from dyt.model.parts import start_head
from families.zoo_hierarchical import HIERARCHICAL
from laws.models import spec


@pytest.mark.parametrize("name", ["samvit_base_patch16_224", "samvit_base_patch16", "samvit_large_patch16"])
def test_models_of_timm(name: str) -> None:
    support = dyt.supports(name)
    assert (support.family, support.variants) == ("sam", ("mlp",))
    assert all("row by row" in reason for reason in support.refused.values())


def test_windows_that_do_not_divide_the_map_are_padded_as_timm_pads_them() -> None:
    tiny = HIERARCHICAL["sam, other image size"]
    plain, model = tiny.backbone(), dyt.build(spec(), backbone=tiny.backbone())
    for size in ((48, 40), (24, 24), (56, 72)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad(), dyt.execution(model, "complete"):
            torch.testing.assert_close(model(x), plain(x))


def test_a_new_head_keeps_the_scale_of_its_norm() -> None:
    backbone = HIERARCHICAL["sam, rope, two-layer head"].backbone()
    torch.nn.init.ones_(backbone.head.norm.weight)
    start_head(backbone)
    assert bool((backbone.head.norm.weight == 1).all())
    assert 0.005 < float(backbone.head.fc.weight.detach().std()) < 0.015
    assert not backbone.head.fc.bias.any()
