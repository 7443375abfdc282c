"""Holding a rate by a threshold: the quantile, ties among logits, and the step that follows an asked rate."""

from typing import Any

import pytest
import torch

import dyt
from dyt.objective.thresholds import set_thresholds, threshold_for, thresholds_of
from dyt.train.optim import groups
from dyt.train.spec import TrainSpec

X, Y = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def tiny(**changes: object) -> dyt.DynamicModel:
    torch.manual_seed(0)
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    backbone = {"name": "vit_tiny_patch16_224", "weights": "none", "args": args}
    return dyt.build({"backbone": backbone, "head": {"num_classes": 3}} | changes)


def values(model: dyt.DynamicModel, images: torch.Tensor = X) -> list[torch.Tensor]:
    with torch.no_grad(), dyt.record(model) as routes:
        model(images)
    return [thresholds_of(route, site) for route, site in zip(routes, model.sites, strict=True)]


def rates(model: dyt.DynamicModel, images: torch.Tensor = X) -> list[float]:
    with torch.no_grad(), dyt.record(model) as routes:
        model(images)
    return [float(route.active[:, route.prefix :].float().mean()) for route in routes]


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.5, 0.99, 1.0])
def test_the_asked_share_lies_above_the_threshold(rate: float) -> None:
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    assert int((logits > threshold_for(logits, rate)).sum()) == round(rate * 1000)


def test_equal_values_go_where_the_share_is_nearer() -> None:
    tied = torch.tensor([1.0] * 4 + [2.0] * 6)
    for rate, above in ((0.05, 0), (0.25, 0), (0.35, 6), (0.6, 6), (0.75, 6), (0.9, 10), (1.0, 10)):
        assert int((tied > threshold_for(tied, rate)).sum()) == above, rate
    assert float(threshold_for(tied, 0.6)) == 1.5
    assert float(threshold_for(torch.tensor([-1.0, 1.0]), 0.5)) != 0.0  # 0 would be the paper's rule, ties and all


def test_a_threshold_has_values_on_neither_side_of_it_near() -> None:
    """So that the rounding of another batch or CPU moves no token over it."""
    logits = torch.arange(100.0)
    for rate in (0.1, 0.5, 0.93):
        assert float((logits - threshold_for(logits, rate)).abs().min()) == 0.5


@pytest.mark.parametrize("level", ["token", "sample"])
def test_a_route_is_what_its_thresholds_say_and_padding_has_none(level: str) -> None:
    model = tiny(dispatcher={"type": "learned", "level": level})
    for i, site in enumerate(model.sites):
        site.threshold.fill_((i - 1) * 0.3 - 0.01)
    with torch.no_grad(), dyt.record(model) as routes:
        model(X)
    for route, site in zip(routes, model.sites, strict=True):
        found = thresholds_of(route, site)
        assert torch.equal(found > site.threshold, route.active[:, 1:].flatten())
        assert route.logits is not None
        torch.testing.assert_close(found, route.logits.flatten(), atol=1e-3, rtol=1e-3)
        assert torch.equal(found, route.logits.flatten()) == (level == "sample")
        padding = torch.zeros(8, 17, dtype=torch.bool)
        padding[:, -3:] = True
        padded = dyt.Route(route.active & ~padding, 1, padding=padding, logits=route.logits)
        assert torch.equal(thresholds_of(padded, site), found.reshape(8, 16)[:, :-3].flatten())


def test_all_sites_follow_one_threshold() -> None:
    model = tiny(dispatcher={"type": "learned", "bias": {"start": 1.0, "end": -1.0}})
    found = values(model)
    set_thresholds(model, found, 0.3)
    assert len({float(site.threshold) for site in model.sites}) == 1
    assert float((torch.cat(found) > model.sites[0].threshold).float().mean()) == pytest.approx(0.3, abs=0.01)


TIES = {
    "all equal": (0.0, 0.0, 0.0),
    "equal up to noise": (0.0, 0.0, 1e-6),
    "two groups": (2.0, 0.0, 0.0),
    "half the sites": (0.0, 1.0, 0.0),
    "far from zero": (-40.0, 0.0, 1e-5),
}


def tied(kind: str, level: str = "token", **changes: Any) -> dyt.DynamicModel:
    """A model whose routers give one logit, one of two (the two halves of an image), or that at the last sites."""
    model, (apart, told, noise) = (
        tiny(dispatcher={"type": "learned", "level": level, "noise": 0.0}, **changes),
        TIES[kind],
    )
    for i, site in enumerate(model.sites):
        site.dispatcher.logits = Scores(apart, told if 2 * i < len(model.sites) else 0.0, noise)
    return model


class Scores:
    """In the place of a router: `apart` more in the second half of each image, a random part, and rounding."""

    def __init__(self, apart: float, told: float, noise: float) -> None:
        self.apart, self.told, self.noise = apart, told, noise

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        late = torch.arange(tokens.shape[1]) >= tokens.shape[1] // 2
        scores = self.apart * late.float().expand(tokens.shape[:2]) + 0.0 * tokens.float().sum(-1)
        content = torch.randn(tokens.shape[:2], generator=torch.Generator().manual_seed(len(tokens)))
        return scores + self.told * content + self.noise * torch.randn(tokens.shape[:2])


@pytest.mark.parametrize("kind", TIES)
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.77, 1.0])
def test_the_rate_holds_where_logits_tie(kind: str, rate: float) -> None:
    """Within one token of an image, for all sites together and for each; alone, an image is decided as in its batch."""
    model = tied(kind).eval()
    set_thresholds(model, values(model), rate)
    assert sum(rates(model)) / len(model.sites) == pytest.approx(rate, abs=1 / 16)
    asked = [rate, 1 - rate / 2, rate / 2]
    set_thresholds(model, values(model), asked)
    assert rates(model) == pytest.approx(asked, abs=1 / 16)
    if kind == "all equal":
        with torch.no_grad(), dyt.record(model) as together:
            model(X)
        with torch.no_grad(), dyt.record(model) as alone:
            model(X[5:6])
        assert all(torch.equal(a.active[5], b.active[0]) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("kind", TIES)
def test_a_step_holds_the_rate_where_logits_tie(kind: str) -> None:
    for changes in ({"rate": 0.3}, {"layer_rates": [0.25, 0.5, 0.9]}):
        model = tied(kind, objective={**changes, "rate_weight": 0.0, "control": "threshold"})
        step = dyt.TuningStep(model).train()
        step(X, Y)
        _, parts = step(X, Y)
        assert float(parts["active_rate"]) == pytest.approx(step.objective.rate, abs=1 / 16)
        if "layer_rates" in changes:
            assert rates(model.eval()) == pytest.approx([0.25, 0.5, 0.9], abs=1 / 16)


def test_images_that_tie_as_a_whole_are_on_or_off_together() -> None:
    model = tied("all equal", level="sample").eval()
    for rate in (0.3, 0.7):
        set_thresholds(model, values(model), rate)
        assert rates(model) == [round(rate)] * 3


def test_a_step_holds_the_asked_rate_without_a_rate_loss() -> None:
    objective = {"rate": 0.25, "rate_weight": 0.0, "control": "threshold", "asked": {"start": 1.0, "until": 0.5}}
    model = tiny(dispatcher={"type": "learned", "noise": 0.0}, objective=objective)
    step = dyt.TuningStep(model).train()
    reached = []
    for progress in (0.0, 0.0, 0.5, 1.0):
        _, parts = step(X, Y, progress)
        reached.append(float(parts["active_rate"]))
    assert reached[1] == 1  # followed the first step's asked rate
    # an early site's skipping moves later logits a little, so that the next step meets the rate only nearly
    assert reached[3] == pytest.approx(0.25, abs=0.05)
    before = [float(site.threshold) for site in model.sites]
    step.eval()(X, Y, 0.0)
    assert [float(site.threshold) for site in model.sites] == before


def test_sites_follow_thresholds_of_their_own_where_rates_are_per_layer() -> None:
    model = tiny(dispatcher={"type": "learned", "bias": {"start": 1.0, "end": -1.0}})
    found = values(model)
    set_thresholds(model, found, [0.25, 0.5, 1.0])
    shares = [float((own > site.threshold).float().mean()) for own, site in zip(found, model.sites, strict=True)]
    assert shares == [0.25, 0.5, 1.0]


def test_a_step_holds_the_rate_of_each_layer() -> None:
    objective = {"layer_rates": [0.75, 0.5, 0.25], "rate_weight": 0.0, "control": "threshold"}
    model = tiny(dispatcher={"type": "learned", "noise": 0.0}, objective=objective)
    step = dyt.TuningStep(model).train()
    for _ in range(3):
        with dyt.record(model) as routes:
            step(X, Y)
    reached = [float(route.active[:, 1:].float().mean()) for route in routes[:3]]
    assert reached == pytest.approx([0.75, 0.5, 0.25], abs=0.05)


def test_a_dispatcher_without_logits_is_refused() -> None:
    model = tiny(dispatcher={"type": "random"}, objective={"control": "threshold"})
    with pytest.raises(dyt.DyTError, match=r"blocks\.0\.mlp has no logits .* objective\.control: loss"):
        dyt.TuningStep(model).train()(X, Y)


def test_adapters_have_a_learning_rate_of_their_own() -> None:
    model = tiny()
    found = groups(model, TrainSpec(adapter_lr_scale=7.0, router_lr_scale=3.0))
    scale = {id(p): group["lr_scale"] for group in found for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            wanted = 7.0 if ".adapter." in name else 3.0 if ".dispatcher." in name else 1.0
            assert scale[id(parameter)] == wanted, name


def test_beyond_all_values_a_threshold_is_one_away() -> None:
    values = torch.tensor([0.5, 3.0, -2.0, 1.0])
    assert threshold_for(values, 0.0).item() == 4.0
    assert threshold_for(values, 1.0).item() == -3.0
    alike = torch.full((4,), 7.0)
    assert threshold_for(alike, 0.25).item() == 8.0
    assert threshold_for(alike, 0.75).item() == 6.0
