"""The routers' start: importance is what it says it is, and the fit tells it and keeps the asked rate."""

from pathlib import Path
from typing import Any

import pytest
import torch

import dyt
from dyt.train import fit
from dyt.train.importance import router_of, start_routers, token_importance

from .conftest import ARGS, NAME, Runs

X = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def model(weights: Path, **changes: Any) -> dyt.DynamicModel:
    backbone = {"name": NAME, "weights": str(weights), "args": ARGS}
    return dyt.build({"backbone": backbone, "head": {"num_classes": 3}, **changes})


def features(tuned: dyt.DynamicModel, masks: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad(), dyt.forced(tuned, masks):
        return tuned.forward_head(tuned.forward_features(X), pre_logits=True)


def test_importance_is_the_squared_change_of_the_features(weights: Path) -> None:
    """Against the branch's output scaled down by hand at one token: a finite difference, and many probes."""
    tuned = model(weights)
    routes, found = token_importance(tuned, X, probes=400, generator=torch.Generator().manual_seed(0))
    assert [f.shape for f in found] == [r.active[:, r.prefix :].shape for r in routes]
    site, token, step = tuned.sites[0], 3, 1e-2
    block = tuned.backbone.blocks[0]

    def scaled(factor: float) -> torch.Tensor:
        def scale(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
            out = out.clone()
            out[:, site.prefix + token] *= factor
            return out

        handle = block.drop_path2.register_forward_hook(scale)
        with torch.no_grad(), dyt.execution(tuned, "complete"):
            got = tuned.forward_head(tuned.forward_features(X), pre_logits=True)
        handle.remove()
        return got

    expected = ((scaled(1 + step) - scaled(1 - step)) / (2 * step)).square().sum(1)
    torch.testing.assert_close(found[0][:, token], expected, rtol=0.35, atol=1e-3 * float(expected.max()))


def test_the_last_block_s_patches_are_worth_nothing_to_a_class_token(weights: Path) -> None:
    tuned = model(weights)
    _, found = token_importance(tuned, X, 1, torch.Generator().manual_seed(0))
    assert bool((found[0] > 0).all())
    assert not bool(found[-1].any())
    start_routers(tuned, [X], 0.4)
    tuned.eval()
    with torch.no_grad(), dyt.record(tuned) as routes:
        tuned(X)
    assert not bool(routes[-1].active[:, routes[-1].prefix :].any())
    assert bool(routes[-1].active[:, : routes[-1].prefix].all())


def test_they_are_worth_something_to_a_head_that_reads_patches(weights: Path) -> None:
    tuned = model(weights, head={"type": "pixel", "num_classes": 3})
    _, found = token_importance(tuned, X, 1, torch.Generator().manual_seed(0))
    assert bool((found[-1] > 0).all())


@pytest.mark.parametrize(
    ("level", "rate"), [("token", 0.3), ("token", 0.7), ("token", 1.0), ("sample", 0.3), ("sample", 1.0)]
)
def test_it_starts_at_the_rate_and_tells_importance(weights: Path, rate: float, level: str) -> None:
    tuned = model(weights, dispatcher={"type": "learned", "level": level}).train()
    frozen = {k: v.clone() for k, v in tuned.state_dict().items() if ".router." not in k and "threshold" not in k}
    told = start_routers(tuned, [X[:3], X[3:]], rate)
    assert tuned.training
    assert list(told) == [site.name for site in tuned.sites]
    assert all(-1e-6 <= share <= 1 + 1e-6 for share in told.values())
    assert told[tuned.sites[0].name] > 0.1
    assert all(torch.equal(v, frozen[k]) for k, v in tuned.state_dict().items() if k in frozen)
    (threshold,) = {float(site.threshold) for site in tuned.sites}
    assert rate == 1 or 0 < abs(threshold) < 0.02  # the routers' biases are what is moved
    assert started_rate(tuned) == pytest.approx(rate, abs=1.5 / 12 if level == "sample" else 1 / 16)


def started_rate(tuned: dyt.DynamicModel, images: torch.Tensor = X) -> float:
    """Of what the routers say of the complete pass's tokens, on which they were started."""
    keeping, active, total = dyt.core.context.changed(tuned.key, keep_tokens=True), 0, 0
    with torch.no_grad(), dyt.execution(tuned.eval(), "complete"), keeping, dyt.record(tuned) as routes:
        tuned(images)
    with torch.no_grad():
        for site, route in zip(tuned.sites, routes, strict=True):
            assert route.entered is not None
            decided = site.eval()(route.entered)
            active, total = active + int(decided.counts()[0].sum()), total + int(decided.counts()[1].sum())
    return active / total


@pytest.mark.parametrize("rate", [0.2, 0.7, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", ["one site", "all"])
def test_it_starts_at_the_rate_where_logits_tie(weights: Path, rate: float, dtype: torch.dtype, tied: str) -> None:
    """The last router's, or with patches that are all alike every router's; within a token of each image."""
    tuned = model(weights).to(dtype)
    if tied == "all":
        with torch.no_grad():
            tuned.backbone.pos_embed.zero_()
            tuned.backbone.patch_embed.proj.weight.zero_()
    start_routers(tuned, [X.to(dtype)[:3], X.to(dtype)[3:]], rate)
    keeping = dyt.core.context.changed(tuned.key, keep_tokens=True)
    with torch.no_grad(), dyt.execution(tuned.eval(), "complete"), keeping, dyt.record(tuned) as routes:
        tuned(X.to(dtype))
    for site, route in list(zip(tuned.sites, routes, strict=True))[-1 if tied == "one site" else 0 :]:
        assert route.entered is not None
        logits = torch.nn.functional.linear(route.entered[:, 1:].float(), router_of(site).weight.detach().float())
        assert float(logits.max() - logits.min()) < 1e-5  # or this test builds no tie
    assert started_rate(tuned, X.to(dtype)) == pytest.approx(rate, abs=1 / 16)


def test_the_fit_is_ridge_regression(weights: Path) -> None:
    """Against the same regression written with all tokens at hand."""
    tuned = model(weights)
    start_routers(tuned, [X], 0.5, probes=2, seed=3)
    routes, found = token_importance(tuned, X, 2, torch.Generator().manual_seed(3))
    route, importance = routes[0], found[0]
    assert route.entered is not None
    x = route.entered.detach()[:, route.prefix :].reshape(-1, route.entered.shape[-1]).double()
    mean = float(torch.stack([f.sum() for f in found]).sum()) / sum(f.numel() for f in found)
    target = importance.flatten().clamp_min(1e-6 * mean).log().double()
    centred = x - x.mean(0)
    gram = centred.T @ centred / len(x)
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(gram + ridge, centred.T @ (target - target.mean()) / len(x))
    torch.testing.assert_close(router_of(tuned.sites[0]).weight[0].double(), weight, rtol=1e-3, atol=1e-4)


def test_bad_input_is_one_line(weights: Path) -> None:
    with pytest.raises(dyt.DyTError, match=r"rate is 1\.5"):
        start_routers(model(weights), [X], 1.5)
    with pytest.raises(dyt.DyTError, match="no images"):
        start_routers(model(weights), [], 0.5)
    with pytest.raises(dyt.DyTError, match=r"blocks\.0\.mlp has no linear router.*Always"):
        start_routers(model(weights, dispatcher={"type": "always"}), [X], 0.5)


def test_a_run_starts_from_importance(runs: Runs, tmp_path: Path) -> None:
    """With the threshold control, the first epoch runs at the asked rate."""
    objective = {"rate": 0.5, "rate_weight": 0.0, "control": "threshold"}
    dispatcher = {"type": "learned", "noise": 0.0}
    train = {"router_start": "importance", "router_lr_scale": 0.01}
    result = fit(runs(objective=objective, dispatcher=dispatcher, train=train), tmp_path / "out", progress=False)
    assert result.training_rate == pytest.approx(0.5, abs=0.1)
    rates = list(result.training_rates.values())
    assert rates[0] > rates[-1]
