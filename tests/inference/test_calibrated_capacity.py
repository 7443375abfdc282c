"""The room of each site is set from sample images, and is part of the spec that is saved."""

import pytest
import torch

import dyt
from laws.models import masks, tiny

X = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def counts(model: dyt.DynamicModel, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad(), dyt.record(model) as routes:
        model(x)
    return [route.active.sum(1) for route in routes]


@pytest.mark.parametrize("variant", ["mlp", "attn_mlp"])
def test_the_most_active_image_has_room(variant: str) -> None:
    model = tiny(variant={"type": variant})
    shares = dyt.calibrate_capacity(model, X.split(2), margin=0)
    assert [round(share * 17) for share in shares] == [int(c.max()) for c in counts(model, X)]
    assert [site.capacity.share for site in model.sites] == list(shares)


def test_quantile_margin_and_images_that_run_together() -> None:
    model, masks_of = tiny(), torch.arange(17).expand(6, 17)
    active = torch.tensor([2, 4, 6, 8, 10, 17])
    forced = [masks_of < active[:, None]] * 2
    with dyt.forced(model, forced):
        assert dyt.calibrate_capacity(model, [X], quantile=0.5, margin=0)[0] == 8 / 17
        assert dyt.calibrate_capacity(model, [X], quantile=0, margin=0.5)[0] == 3 / 17
        assert dyt.calibrate_capacity(model, [X])[0] == 1.0
        assert dyt.calibrate_capacity(model, [X], margin=0, together=3)[0] == 12 / 17
        assert dyt.calibrate_capacity(model, [X], margin=0, together=4)[0] == 5 / 17
    model = tiny(variant={"type": "attn"})
    with dyt.forced(model, forced):
        assert dyt.calibrate_capacity(model, [X], margin=0, together=6)[0] == 1.0


def test_it_is_saved_and_loaded(tmp_path) -> None:
    model = tiny(trainable="full")
    shares = dyt.calibrate_capacity(model, [X], quantile=0.5, overflow="nan")
    dyt.save(model, tmp_path / "model.safetensors")
    loaded = dyt.load(tmp_path / "model.safetensors")
    assert loaded.spec.capacity == dyt.CapacitySpec(share=shares, overflow="nan")
    assert [site.capacity for site in loaded.sites] == [site.capacity for site in model.sites]


def test_the_mode_is_left_as_it_was_and_overflow_is_exact() -> None:
    model = tiny().train()
    dyt.calibrate_capacity(model, [X], quantile=0, margin=0)
    assert model.training
    model.eval()
    with torch.no_grad(), dyt.forced(model, masks(model, X, ["all"], 0)):
        with dyt.execution(model, "capacity"):
            out = model(X)
        with dyt.execution(model, "masked"):
            assert torch.equal(out, model(X))


@pytest.mark.parametrize(
    ("batches", "changes", "message"),
    [
        ([], {}, "no images were given"),
        ([X], {"quantile": 1.5}, "quantile from 0 to 1"),
        ([X], {"margin": -1}, "margin >= 0"),
        ([X], {"together": 7}, "6 images given, and together is 7"),
    ],
)
def test_what_is_refused(batches, changes, message) -> None:
    with pytest.raises(dyt.DyTError, match=message):
        dyt.calibrate_capacity(tiny(), batches, **changes)


@pytest.mark.parametrize(
    ("capacity", "message"),
    [
        ({"share": [0.5]}, "1 shares given for 2 sites"),
        ({"share": 0}, "capacity.share"),
        ({"overflow": "drop"}, "capacity.overflow"),
    ],
)
def test_specs_that_are_refused(capacity, message) -> None:
    with pytest.raises(dyt.SpecError, match=message):
        tiny(capacity=capacity)
