"""`dyt.calibrate_thresholds` reaches the rate, by one common shift, and changes nothing but thresholds."""

from pathlib import Path

import pytest
import torch

import dyt
from dyt import calibrate_thresholds, train

from .conftest import ARGS, NAME


def model(weights: Path, **changes: object) -> dyt.DynamicModel:
    backbone = {"name": NAME, "weights": str(weights), "args": ARGS}
    return dyt.build({"backbone": backbone, "head": {"num_classes": 3}, **changes})


def rate_of(tuned: dyt.DynamicModel, batches: list[torch.Tensor]) -> float:
    tuned.eval()
    with torch.no_grad(), dyt.record(tuned) as routes:
        for images in batches:
            tuned(images)
    active, total = dyt.core.route.activation_rate(routes)
    return float(active / total)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_it_reaches_the_rate(weights: Path, rate: float) -> None:
    tuned = model(weights, dispatcher={"type": "learned", "bias": 3.0}).train()
    batches = [torch.randn(6, 3, 32, 32), torch.randn(3, 3, 32, 32)]
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    reached = calibrate_thresholds(tuned, batches, rate, tolerance=0.01)
    assert reached == pytest.approx(rate, abs=0.01)
    assert rate_of(tuned, batches) == pytest.approx(reached)
    assert tuned.training is False or reached  # rate_of put it into eval mode
    assert all(
        torch.equal(value, before[name]) for name, value in tuned.state_dict().items() if "threshold" not in name
    )


def test_the_shift_is_common_and_keeps_what_lies_between_sites(weights: Path) -> None:
    tuned = model(weights)
    tuned.sites[1].threshold.fill_(0.5)
    calibrate_thresholds(tuned, [torch.randn(8, 3, 32, 32)], 0.3)
    assert float(tuned.sites[1].threshold - tuned.sites[0].threshold) == pytest.approx(0.5, abs=1e-6)


def test_the_mode_is_left_as_it_was(weights: Path) -> None:
    tuned = model(weights).train()
    calibrate_thresholds(tuned, [torch.randn(2, 3, 32, 32)], 0.5)
    assert tuned.training


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_a_rate_that_is_none_is_refused(weights: Path, rate: float) -> None:
    with pytest.raises(dyt.DyTError, match="above 0 and at most 1"):
        calibrate_thresholds(model(weights), [torch.randn(1, 3, 32, 32)], rate)


def test_no_images_and_no_logits_are_refused(weights: Path) -> None:
    with pytest.raises(dyt.DyTError, match="no images"):
        calibrate_thresholds(model(weights), [], 0.5)
    with pytest.raises(dyt.DyTError, match="scores no tokens"):
        calibrate_thresholds(model(weights, dispatcher="always"), [torch.randn(1, 3, 32, 32)], 0.5)


@pytest.mark.parametrize("variant", ["mlp", "attn_mlp"])
def test_rates_by_site_are_each_site_s_own(weights: Path, variant: str) -> None:
    tuned = model(weights, variant=variant, dispatcher={"type": "learned", "bias": {"start": -2.0, "end": 2.0}})
    batches, seen = [torch.randn(6, 3, 32, 32), torch.randn(3, 3, 32, 32)], []
    rates = [(i + 1) / (len(tuned.sites) + 1) for i in range(len(tuned.sites))]
    tuned.backbone.patch_embed.register_forward_pre_hook(lambda *_: seen.append(1))
    reached = calibrate_thresholds(tuned, batches, rates, tolerance=0.01)
    assert len(seen) <= 2 * (len(tuned.sites) + 1)
    with torch.no_grad(), dyt.record(tuned) as routes:
        for images in batches:
            tuned(images)
    for i, rate in enumerate(rates):
        active, total = dyt.core.route.activation_rate(routes[i :: len(rates)])
        assert float(active / total) == pytest.approx(rate, abs=0.01)
    assert rate_of(tuned, batches) == pytest.approx(reached)


def test_sites_that_are_near_enough_are_left(weights: Path) -> None:
    tuned, batches = model(weights), [torch.randn(8, 3, 32, 32)]
    rates = [0.3] * len(tuned.sites)
    calibrate_thresholds(tuned, batches, rates)
    before = [float(site.threshold) for site in tuned.sites]
    calibrate_thresholds(tuned, batches, rates)
    assert [float(site.threshold) for site in tuned.sites] == before


def test_another_number_of_rates_than_sites_is_refused(weights: Path) -> None:
    with pytest.raises(dyt.DyTError, match=r"5 rates given, the model has [0-9]+ sites; give one for each, or"):
        calibrate_thresholds(model(weights), [torch.randn(1, 3, 32, 32)], [0.5] * 5)
    with pytest.raises(dyt.DyTError, match="above 0 and at most 1"):
        calibrate_thresholds(model(weights), [torch.randn(1, 3, 32, 32)], [0.5, 0.0])


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.85])
@pytest.mark.parametrize("which", ["all", "last"])
def test_it_reaches_the_rate_where_logits_tie(weights: Path, rate: float, which: str) -> None:
    """Within one token of an image, for one rate and for a rate of each site; a threshold of 0 alone is no help."""
    for asked in (rate, [rate, 1.2 * rate - 0.1]):
        tuned, batches = model(weights), [torch.randn(6, 3, 32, 32), torch.randn(3, 3, 32, 32)]
        for site in tuned.sites[0 if which == "all" else -1 :]:
            torch.nn.init.zeros_(site.dispatcher.router.weight)
        reached = calibrate_thresholds(tuned, batches, asked, tolerance=1 / 16)
        assert rate_of(tuned, batches) == pytest.approx(reached)
        with torch.no_grad(), dyt.record(tuned) as routes:
            for images in batches:
                tuned(images)
        counts = [dyt.core.route.activation_rate(routes[i :: len(tuned.sites)]) for i in range(len(tuned.sites))]
        own = [float(active / total) for active, total in counts]
        if isinstance(asked, list):
            assert own == pytest.approx(asked, abs=1 / 16)
        else:
            assert reached == pytest.approx(rate, abs=1 / 16)


def test_the_names_of_before_go_on_working() -> None:
    """`dyt.calibrate` is the first of the three; `calibrate_rate` says its new name, wherever it was."""
    assert dyt.calibrate is dyt.calibrate_break_even
    with pytest.warns(DeprecationWarning, match=r"dyt\.train\.calibrate_rate is dyt\.train\.calibrate_thresholds now"):
        assert train.calibrate_rate is calibrate_thresholds
    with (
        pytest.warns(DeprecationWarning, match=r"dyt\.train\.calibrate is dyt\.inference\.thresholds now"),
        pytest.warns(DeprecationWarning, match=r"calibrate_rate is .*\.calibrate_thresholds now"),
    ):
        from dyt.train.calibrate import calibrate_rate
    assert calibrate_rate is calibrate_thresholds
