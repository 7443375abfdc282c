"""Rates, maps and random masks."""

import pytest
import torch

import dyt
from dyt.errors import DyTError, UnsupportedError
from dyt.measure import patch_maps, random_masks, routes_of, site_rates, token_counts
from dyt.measure.activity import grid
from dyt.measure.costs import costs

SPEC = {
    "backbone": {
        "name": "vit_tiny_patch16_224",
        "weights": "none",
        "args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    },
    "head": {"num_classes": 3},
    "adapter": {"type": "bottleneck", "dim": 4},
}


@pytest.fixture
def model():
    return dyt.build(SPEC)


def test_site_rates_are_those_of_the_masks(model):
    images = torch.randn(4, 3, 32, 32)
    masks = random_masks(token_counts(model, images[:1]), 4, 0.25)
    with dyt.forced(model, masks):
        rates = site_rates(model, [images])
    assert rates == {"blocks.0.mlp": pytest.approx(0.25), "blocks.1.mlp": pytest.approx(0.25)}


def test_patch_maps_keep_the_places(model):
    mask = torch.zeros(1, 17, dtype=torch.bool)
    mask[0, [0, 1 + 6]] = True  # patch 6 of a 4 x 4 grid: row 1, column 2
    with dyt.forced(model, [mask, mask]):
        maps = patch_maps(routes_of(model, torch.randn(1, 3, 32, 32)), (32, 32))
    assert maps.shape == (1, 2, 4, 4)
    assert maps.nonzero().tolist() == [[0, 0, 1, 2], [0, 1, 1, 2]]


def test_grid_follows_the_shape_of_the_image():
    assert grid(196, (224, 224)) == (14, 14)
    assert grid(32, (32, 64)) == (4, 8)
    with pytest.raises(UnsupportedError, match="no grid"):
        grid(17, (32, 32))


def test_nothing_given_is_refused(model):
    with pytest.raises(DyTError, match="no images"):
        site_rates(model, [])
    with pytest.raises(DyTError, match="0 to 1"):
        random_masks([(17, 1)], 1, 1.5)


def test_costs_grow_with_the_rate_and_count_adapters():
    low, high = (costs(dyt.DyTSpec.model_validate(SPEC), rate) for rate in (0.0, 1.0))
    assert low.dense == high.dense < high.complete < high.executed  # executed has the routers
    assert low.executed < high.executed
    adapters, routers = 2 * (2 * 32 * 4 + 4 + 32), 2 * 33
    assert high.trainable == adapters + routers
    assert high.head == 3 * 32 + 3
