"""`dyt.calibrate_budgets` in few passes, `model.budget` from its table, and `dyt.Budget` in GMACs and milliseconds."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import dyt
from dyt.executors import Sparse
from dyt.inference import budget as costs
from dyt.inference.budget import row_gmacs
from dyt.inference.budgets import RATES
from dyt.inference.thresholds import look, share
from dyt.measure import latency
from laws.models import tiny

BATCHES = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(0)).split(32)


def spread(**changes: Any) -> dyt.DynamicModel:
    """A model whose routers tell tokens apart, and whose sites have thresholds of their own."""
    model = tiny(**changes)
    with torch.no_grad():
        for i, site in enumerate(model.sites):
            torch.nn.init.normal_(site.dispatcher.router.weight, std=0.3)
            site.threshold.fill_(0.4 * i)
    return model


def rate_of(model: dyt.DynamicModel) -> float:
    looked = look(model, BATCHES)
    return share(looked.active, looked.total)


def test_every_rate_is_met_and_the_thresholds_are_left() -> None:
    model, seen = spread().train(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.backbone.patch_embed.register_forward_pre_hook(lambda *_: seen.append(1))
    told: list[tuple[int, int]] = []
    table = dyt.calibrate_budgets(model, BATCHES, progress=lambda done, total: told.append((done, total)))
    assert len(seen) / len(BATCHES) <= 1 + 2 * len(RATES)  # 12 here
    assert told == [(done, len(RATES)) for done in range(1, 1 + len(RATES))]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.budget_table is table
    assert table.rates == RATES
    assert table.reached == pytest.approx(RATES, abs=0.005)
    assert list(table.sites) == [site.name for site in model.sites]
    first, second = table.sites.values()
    assert [b - a for a, b in zip(first.thresholds, second.thresholds, strict=True)] == pytest.approx(
        [0.4] * len(RATES)
    )
    assert [(a + b) / 2 for a, b in zip(first.rates, second.rates, strict=True)] == pytest.approx(table.reached)


@pytest.mark.parametrize("changes", [{}, {"variant": "attn_mlp"}])
def test_a_budget_between_the_rows_is_met_as_well(changes: dict[str, Any]) -> None:
    model = spread(**changes).eval()
    dyt.calibrate_budgets(model, BATCHES)
    assert model.budget is None
    for rate in (0.1, 0.17, 0.35, 0.72, 0.97):
        model.budget = rate
        assert model.budget == rate
        assert rate_of(model) == pytest.approx(rate, abs=0.015)
    model.budget = 1
    assert rate_of(model) == 1
    with torch.no_grad(), dyt.record(model) as routes:
        model(10 * torch.randn(8, 3, 32, 32))  # unlike any that it was calibrated on
    assert all(bool(route.active.all()) for route in routes)


def test_again_after_a_budget_it_finds_the_same() -> None:
    model = spread().eval()
    first = dyt.calibrate_budgets(model, BATCHES)
    model.budget = 1.0
    second = dyt.calibrate_budgets(model, BATCHES)
    for a, b in zip(first.sites.values(), second.sites.values(), strict=True):
        assert a.thresholds == pytest.approx(b.thresholds, abs=0.05)


def test_at_sample_level_images_are_active_or_not() -> None:
    model = spread(dispatcher={"type": "learned", "level": "sample"}).eval()
    dyt.calibrate_budgets(model, BATCHES, (0.25, 0.5, 1.0), tolerance=1 / 48)
    for rate in (0.25, 0.5, 1.0):
        model.budget = rate
        assert rate_of(model) == pytest.approx(rate, abs=1.5 / 48)


def test_what_cannot_be_calibrated_is_refused() -> None:
    model = spread()
    for rates in ((0.5,), (0.5, 0.2), (0.0, 0.5), (0.5, 1.5), (0.2, 0.2), 0.5, ("a", "b"), (True, 1.0)):
        with pytest.raises(dyt.DyTError, match="rates are 2 to 1000 numbers that ascend, above 0 and at most 1; given"):
            dyt.calibrate_budgets(model, BATCHES, rates)  # type: ignore[arg-type]
    with pytest.raises(dyt.DyTError, match="calibrate_budgets: no images were given"):
        dyt.calibrate_budgets(model, [])
    with pytest.raises(dyt.DyTError, match="gone through several times; give a list"):
        dyt.calibrate_budgets(model, iter(BATCHES))
    with pytest.raises(dyt.DyTError, match="scores no tokens"):
        dyt.calibrate_budgets(tiny(dispatcher="random"), BATCHES)
    with pytest.raises(
        dyt.UnsupportedError, match=r"blocks\.1\.mlp of this optimised model decides nothing; calibrate"
    ):
        dyt.calibrate_budgets(dyt.optimize(model), BATCHES)
    assert model.budget_table is None


def test_what_is_no_budget_is_refused_and_changes_nothing() -> None:
    model = spread().eval()
    with pytest.raises(dyt.DyTError, match=r"^calibrate first: dyt\.calibrate_budgets\(model, batches\)$"):
        model.budget = 0.4
    dyt.calibrate_budgets(model, BATCHES, (0.2, 0.5, 0.8))
    model.budget = 0.5
    before = [float(site.threshold) for site in model.sites]
    for given in (0.1, 0.9, 0, -1, 1):
        with pytest.raises(dyt.DyTError, match=r"allowed are rates from 0\.2 to 0\.8"):
            model.budget = given
    for given in ("0.4", None, True, [0.4]):
        with pytest.raises(dyt.DyTError, match=r"it is a rate, a number above 0 and at most 1, or a dyt\.Budget"):
            model.budget = given  # type: ignore[assignment]
    assert model.budget == 0.5
    assert [float(site.threshold) for site in model.sites] == before
    del model.budget_table.sites[model.sites[0].name]  # type: ignore[union-attr, attr-defined]
    with pytest.raises(dyt.DyTError, match="other sites than when it was calibrated"):
        model.budget = 0.5


def test_copies_and_optimised_models_have_it() -> None:
    model = spread().eval()
    dyt.calibrate_budgets(model, BATCHES)
    model.budget = 0.3
    optimised, copied = dyt.optimize(model), copy.deepcopy(model)
    assert optimised.budget == copied.budget == 0.3
    for other in (optimised, copied):
        other.budget = 0.7
        model.budget = 0.7
        with torch.no_grad():
            torch.testing.assert_close(other(BATCHES[0]), model(BATCHES[0]), atol=1e-5, rtol=1e-5)
        model.budget = 0.3
        assert other.budget == 0.7


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"variant": "attn_mlp"},
        {"variant": "layer", "dispatcher": {"type": "learned", "level": "sample"}},
    ],
    ids=["mlp", "attn_mlp", "layer, samples"],
)
def test_gmacs_are_those_that_are_executed(changes: dict[str, Any], request: pytest.FixtureRequest) -> None:
    if changes.get("variant") == "layer" and not request.config.getoption("--full"):
        pytest.skip("two seconds; use --full")
    model, images = spread(**changes).eval(), BATCHES[0][:10]
    dyt.calibrate_budgets(model, [images], (0.2, 0.6, 1.0))
    low, *_, high = row_gmacs(model)
    rates = []
    for part in (0.0, 1.0) if changes else (0.0, 0.75, 1.0):
        asked = low + part * (high - low)
        model.budget = dyt.Budget(gmacs=asked)
        rates.append(model.budget)
        executed = dyt.count_macs(model, images).double().mean().item() / 1e9
        assert executed == pytest.approx(asked, rel=0.06)  # one of ten images of a site is 5 %
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == pytest.approx((0.2, 1.0))
    for asked in (0.9 * low, 1.1 * high):
        with pytest.raises(dyt.DyTError, match=r"GMACs per image is out of reach: at rates from 0\.2 to 1 the model"):
            model.budget = dyt.Budget(gmacs=asked)


def test_an_optimised_model_has_its_own_costs() -> None:
    model = spread().eval()
    dyt.calibrate_budgets(model, BATCHES, (0.2, 1.0))
    optimised = dyt.optimize(model)
    optimised.budget = dyt.Budget(gmacs=sum(row_gmacs(optimised)) / 2)
    executed = dyt.count_macs(optimised, torch.cat(BATCHES)).double().mean().item() / 1e9
    assert executed == pytest.approx(sum(row_gmacs(optimised)) / 2, rel=0.03)
    assert sum(row_gmacs(optimised)) < sum(row_gmacs(model))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Under which an MLP takes 10 ms for all of an image's tokens, and a router 1 ms."""
    state = {"now": 0.0}
    timed: dict[type, Callable[[Any], float]] = {Sparse: lambda route: route.active.float().mean(1).sum().item() / 100}

    def pointwise(self: Any, fn: Any, x: Any, route: dyt.Route) -> Any:
        state["now"] += timed[Sparse](route)
        return original(self, fn, x, route)

    def decide(self: Any, *arguments: Any) -> Any:
        state["now"] += 0.001
        return decided(self, *arguments)

    original, decided = Sparse.pointwise, dyt.dispatchers.Learned.decide
    monkeypatch.setattr(Sparse, "pointwise", pointwise)
    monkeypatch.setattr(dyt.dispatchers.Learned, "decide", decide)
    monkeypatch.setattr(costs, "paired", partial(latency.paired, clock=lambda: state["now"]))
    return state


def test_latency_is_the_largest_rate_that_is_fast_enough(clock: dict[str, float]) -> None:
    """Two sites of 17 tokens: 2 ms of routers, 1.2 ms of class tokens, and 18.8 ms of all patch tokens."""
    model = spread().eval()
    dyt.calibrate_budgets(model, BATCHES, (0.25, 0.5, 0.75, 1.0))
    for asked, rate in ((8.5, 0.25), (12.0, 0.25), (13.5, 0.5), (30.0, 1.0)):
        model.budget = dyt.Budget(latency_ms=asked)
        assert model.budget == rate
    model.budget = dyt.Budget(latency_ms=26.5, batch=2)  # two images: 44 ms less the routers' 2 for all
    assert model.budget == 0.5
    with pytest.raises(
        dyt.DyTError, match=r"budget of 5 ms at batch 1 is out of reach: at rates from 0\.25 to 1 .* 7\.\d+ to 22 ms"
    ):
        model.budget = dyt.Budget(latency_ms=5)


@pytest.mark.parametrize(
    "fields",
    [{}, {"gmacs": 1.0, "latency_ms": 1.0}, {"gmacs": 0}, {"gmacs": float("nan")}, {"latency_ms": float("inf")},
     {"gmacs": "1"}, {"latency_ms": 1.0, "batch": 0}],
)  # fmt: skip
def test_a_budget_says_one_thing(fields: dict[str, Any]) -> None:
    with pytest.raises(dyt.DyTError, match="Budget has gmacs or latency_ms, one of them, a number above 0"):
        dyt.Budget(**fields)
