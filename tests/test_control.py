"""Holding a rate by a threshold: the quantile, the pooling of logits, and the step that follows an asked rate."""

import pytest
import torch

import dyt
from dyt.control import follow, pooled_logits, threshold_for
from dyt.train.optim import groups
from dyt.train.spec import TrainSpec

X, Y = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def tiny(**changes: object) -> dyt.DynamicModel:
    torch.manual_seed(0)
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    backbone = {"name": "vit_tiny_patch16_224", "weights": "none", "args": args}
    return dyt.build({"backbone": backbone, "head": {"num_classes": 3}} | changes)


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.5, 0.99, 1.0])
def test_the_asked_share_lies_above_the_threshold(rate: float) -> None:
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    assert int((logits > threshold_for(logits, rate)).sum()) == round(rate * 1000)


def test_pooling_takes_off_thresholds_and_leaves_out_padding() -> None:
    model = tiny()
    with torch.no_grad(), dyt.record(model) as routes:
        model(X)
    logits = torch.cat([route.logits.flatten() for route in routes])
    assert torch.equal(pooled_logits(routes), logits)
    for i, site in enumerate(model.sites):
        site.threshold.fill_(i + 1.0)
    moved = torch.cat([route.logits.flatten() - (i + 1) for i, route in enumerate(routes)])
    torch.testing.assert_close(pooled_logits(routes, model.sites), moved)
    padding = torch.zeros(8, 17, dtype=torch.bool)
    padding[:, -3:] = True
    padded = dyt.Route(routes[0].active & ~padding, 1, padding=padding, logits=routes[0].logits)
    assert torch.equal(pooled_logits([padded]), routes[0].logits[:, :-3].flatten())


def test_all_sites_follow_one_threshold() -> None:
    model = tiny(dispatcher={"type": "learned", "bias": {"start": 1.0, "end": -1.0}})
    with torch.no_grad(), dyt.record(model) as routes:
        model(X)
    follow(model, routes, 0.3)
    assert len({float(site.threshold) for site in model.sites}) == 1
    above = torch.cat([route.logits.flatten() for route in routes]) > model.sites[0].threshold
    assert float(above.float().mean()) == pytest.approx(0.3, abs=0.01)


def test_a_step_holds_the_asked_rate_without_a_rate_loss() -> None:
    objective = {"rate": 0.25, "rate_weight": 0.0, "control": "threshold", "asked": {"start": 1.0, "until": 0.5}}
    model = tiny(dispatcher={"type": "learned", "noise": 0.0}, objective=objective)
    step = dyt.TuningStep(model).train()
    rates = []
    for progress in (0.0, 0.0, 0.5, 1.0):
        _, parts = step(X, Y, progress)
        rates.append(float(parts["active_rate"]))
    assert rates[1] == 1  # followed the first step's asked rate
    # an early site's skipping moves later logits a little, so that the next step meets the rate only nearly
    assert rates[3] == pytest.approx(0.25, abs=0.05)
    before = [float(site.threshold) for site in model.sites]
    step.eval()(X, Y, 0.0)
    assert [float(site.threshold) for site in model.sites] == before


def test_sites_follow_thresholds_of_their_own_where_rates_are_per_layer() -> None:
    model = tiny(dispatcher={"type": "learned", "bias": {"start": 1.0, "end": -1.0}})
    with torch.no_grad(), dyt.record(model) as routes:
        model(X)
    follow(model, routes, [0.25, 0.5, 1.0])
    shares = [float((r.logits > s.threshold).float().mean()) for r, s in zip(routes, model.sites, strict=True)]
    assert shares == [0.25, 0.5, 1.0]


def test_a_step_holds_the_rate_of_each_layer() -> None:
    objective = {"layer_rates": [0.75, 0.5, 0.25], "rate_weight": 0.0, "control": "threshold"}
    model = tiny(dispatcher={"type": "learned", "noise": 0.0}, objective=objective)
    step = dyt.TuningStep(model).train()
    for _ in range(3):
        with dyt.record(model) as routes:
            step(X, Y)
    rates = [float(route.active[:, 1:].float().mean()) for route in routes[:3]]
    assert rates == pytest.approx([0.75, 0.5, 0.25], abs=0.05)


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
