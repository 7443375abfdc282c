"""count_macs: the shape of its answer, the paper's numbers, and that it leaves the model alone."""

import pytest
import torch

import dyt
from laws.models import masks, spec, tiny

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("adapter", "gmacs"), [({"type": "none"}, 17.58), ({"type": "bottleneck", "dim": 64}, 17.81)])
def test_the_paper_s_numbers_for_vit_b(adapter: dict[str, object], gmacs: float) -> None:
    backbone = {"name": "vit_base_patch16_224", "weights": "none", "args": {"depth": 1}}
    model = dyt.build(spec(backbone=backbone, adapter=adapter, head={"num_classes": 0}))
    stem = 196 * 768 * 768
    with dyt.execution(model, "complete"):
        one = int(dyt.count_macs(model, torch.zeros(1, 3, 224, 224))) - stem
    assert (12 * one + stem) / 1e9 == pytest.approx(gmacs, abs=0.03)


def test_it_leaves_every_mode_as_it_was() -> None:
    model = tiny().train()
    model.backbone.blocks[0].eval()
    before = [module.training for module in model.modules()]
    dyt.count_macs(model, X)
    assert [module.training for module in model.modules()] == before
    bad = X[:, :2]
    with pytest.raises(RuntimeError):
        dyt.count_macs(model, bad)
    assert [module.training for module in model.modules()] == before


def test_it_counts_inference_even_in_train_mode() -> None:
    model = tiny()
    expected = dyt.count_macs(model, X)
    assert torch.equal(dyt.count_macs(model.train(), X), expected)


def test_an_image_pays_for_its_own_tokens() -> None:
    model = tiny()
    given = masks(model, X, ["none"], 0)
    for mask in given:
        mask[1] = True
        mask[2, :9] = True
    with dyt.forced(model, given):
        none, every, half = dyt.count_macs(model, X).tolist()
    token = 2 * 2 * 32 * 128
    assert (every - none, half - none) == (16 * token, 8 * token)


def test_routes_are_recorded_once() -> None:
    model = tiny()
    with dyt.record(model) as routes:
        dyt.count_macs(model, X)
    assert len(routes) == len(model.sites)


def test_no_image_costs_nothing() -> None:
    assert dyt.count_macs(tiny(), X[:0]).tolist() == []
