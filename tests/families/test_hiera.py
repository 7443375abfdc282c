"""`hiera`: which models of timm, and that a token's place in the image is known where tokens are out of order."""

import pytest
import torch

import dyt
from dyt.assembly.backbone import input_size
from dyt.errors import UnsupportedError
from dyt.measure import patch_maps, routes_of
from dyt.measure.costs import costs
from families.zoo_hierarchical import HIERA, HIERARCHICAL
from laws.models import spec


@pytest.mark.parametrize("name", ["hiera_tiny_224", "hiera_base_224", "hiera_huge_224", "hiera_small_abswin_256"])
def test_models_of_timm(name: str) -> None:
    support = dyt.supports(name)
    assert (support.family, support.variants) == ("hiera", ("mlp",))
    assert all("pools queries" in reason for reason in support.refused.values())


def test_maps_show_tokens_where_they_are() -> None:
    """The tokens that change with a corner of the image, found by running the patch embedding, are drawn there."""
    tiny = HIERARCHICAL["hiera"]
    backbone = tiny.backbone()
    model = dyt.build(spec(), backbone=backbone)
    bright, corner = torch.zeros(1, 3, 64, 64), (slice(40, 56), slice(8, 24))
    bright[0, :, *corner] = 1.0
    with torch.no_grad():
        both = torch.cat([torch.zeros_like(bright), bright])
        tokens = backbone.unroll(backbone._pos_embed(backbone.patch_embed(both)))
    masks = [torch.zeros(1, site_tokens, dtype=torch.bool) for site_tokens in (256, 64, 64, 16, 4)]
    masks[0] = (tokens[0] != tokens[1]).any(-1)[None]
    with dyt.forced(model, masks):
        first = patch_maps(routes_of(model, bright), (64, 64))[0, 0]
    ys, xs = first.nonzero().T
    # patches are 4 pixels apart and see 7 pixels, so that the change is seen one patch further out at most
    assert (ys.min().item(), ys.max().item()) == (10, 14)
    assert (xs.min().item(), xs.max().item()) == (2, 6)
    assert first[10:15, 2:7].all()
    assert first.sum() == 25


def test_later_stages_fill_the_patches_that_they_cover() -> None:
    tiny = HIERARCHICAL["hiera"]
    model = dyt.build(spec(), backbone=tiny.backbone())
    last = torch.zeros(1, 4, dtype=torch.bool)
    last[0, 1] = True
    masks = [torch.zeros(1, count, dtype=torch.bool) for count in (256, 64, 64, 16)]
    with dyt.forced(model, [*masks, last]):
        maps = patch_maps(routes_of(model, tiny.images(1)), (64, 64))
    assert maps.shape == (1, 5, 16, 16)
    assert maps[0, 4, :8, 8:].all()
    assert maps.sum() == 64


def test_dropped_mask_units_have_no_map() -> None:
    tiny = HIERARCHICAL["hiera"]
    model = dyt.build(spec(), backbone=tiny.backbone())
    with torch.no_grad(), dyt.record(model) as routes:
        model.forward_features(tiny.images(1), mask=torch.tensor([[True, False, True, False]]))
    with pytest.raises(UnsupportedError, match="saw 128 of its 256 patch tokens"):
        patch_maps(routes, (64, 64))


def test_costs_are_those_of_the_asked_image_size() -> None:
    args = HIERA | {"stages": [1, 1, 1, 1]}
    given = spec(backbone={"name": "hiera_tiny_224", "weights": "none", "args": args})
    assert input_size(dyt.build(given).backbone) == (64, 64)
    low, high = (costs(dyt.DyTSpec.model_validate(given), rate) for rate in (0.2, 0.8))
    assert low.size == (64, 64)
    assert low.executed < high.executed < 2 * high.dense
