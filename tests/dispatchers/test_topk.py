"""`topk`: exactly k of each image, by score, ties included; noise and gradient in training."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import dyt
from dyt.config.schedules import Ramp
from dyt.dispatchers import BuildContext, DecisionContext, TopK, TopKSpec, sampling
from dyt.dispatchers.counted import largest
from dyt.dispatchers.topk import soft_top
from dyt.train import calibrate_thresholds
from laws.models import CLASSES, tiny

ZERO = torch.zeros(())


def made(dim: int = 6, asked: float = 0.5, **fields: Any) -> TopK:
    dispatcher = TopK(TopKSpec(**fields), BuildContext(dim, rate=asked))
    torch.nn.init.normal_(dispatcher.router.weight)
    return dispatcher


def counts(active: Tensor) -> list[int]:
    return active.sum(1).tolist()


@given(
    scores=st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=4),
    wanted=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    hidden=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=4, max_size=4) | st.none(),
)
def test_exactly_that_many_are_active_and_of_equal_scores_the_first(
    scores: list[list[int]], wanted: list[int], hidden: list[list[bool]] | None
) -> None:
    images = len(scores)
    padding = None if hidden is None else torch.tensor(hidden[:images])
    active = largest(torch.tensor(scores).float(), torch.tensor(wanted[:images])[:, None], padding)
    for i, row in enumerate(scores):
        real = [j for j in range(6) if hidden is None or not hidden[i][j]]
        expected = sorted(real, key=lambda j: (-row[j], j))[: wanted[i]]
        assert active[i].nonzero().flatten().tolist() == sorted(expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("fields", "wanted"),
    [({}, 6), ({"rate": 0.3}, 3), ({"rate": 1.0}, 10), ({"rate": 0.01}, 0), ({"count": 4}, 4), ({"count": 99}, 10)],
)
def test_the_number(training: bool, fields: dict[str, Any], wanted: int) -> None:
    """The objective's rate is the default; a count is at most all."""
    decision = made(asked=0.6, **fields)(torch.randn(3, 10, 6), DecisionContext(training, 0.0, ZERO))
    assert counts(decision.active) == [wanted] * 3
    assert decision.logits is None
    assert not decision.dense


@pytest.mark.parametrize("training", [True, False])
def test_with_padding_the_share_is_of_an_image_s_own_tokens(training: bool) -> None:
    padding = torch.arange(10) >= torch.tensor([[10], [6], [3], [0]])
    found = [
        made(**fields)(torch.randn(4, 10, 6), DecisionContext(training, 0.0, ZERO, padding))
        for fields in ({"rate": 0.5}, {"count": 4})
    ]
    # half of 3 rounds to the even 2, as Python's round does where there is no padding
    assert [counts(decision.active) for decision in found] == [[5, 3, 2, 0], [4, 4, 3, 0]]
    assert not any(bool((decision.active & padding).any()) for decision in found)


def test_inference_takes_the_largest_scores_whatever_the_threshold() -> None:
    dispatcher, x = made(count=2), torch.randn(3, 5, 6)
    decision = dispatcher(x, DecisionContext(False, 0.0, torch.tensor(1e9)))
    scores = (x @ dispatcher.router.weight[0]).detach()
    assert torch.equal(decision.active, torch.zeros(3, 5).scatter(1, scores.topk(2).indices, 1).bool())
    assert decision.gate is None


def test_training_draws_once_and_decides_by_the_noisy_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher, x, drawn = made(count=2, noise=Ramp(start=2.0, end=0.0)), torch.randn(2, 5, 6), []

    def noise(like: Tensor) -> Tensor:
        drawn.append(torch.linspace(-9, 9, like.numel()).reshape(like.shape))
        assert not like.requires_grad
        return drawn[-1]

    monkeypatch.setattr(sampling, "gumbel_difference", noise)
    decision = dispatcher(x, DecisionContext(True, 0.25, ZERO))
    noisy = x @ dispatcher.router.weight[0] + drawn[0] * 1.5
    assert torch.equal(decision.active, torch.zeros(2, 5).scatter(1, noisy.topk(2).indices, 1).bool())
    assert decision.gate is not None
    assert torch.equal(decision.gate, decision.active.float())
    last = dispatcher(x, DecisionContext(True, 1.0, ZERO))
    assert len(drawn) == 1
    assert torch.equal(last.active, dispatcher(x, DecisionContext(False, 0.0, ZERO)).active)


@pytest.mark.parametrize("temperature", [0.5, 5.0])
def test_the_gradient_is_that_of_a_soft_top_k_of_constant_sum(temperature: float) -> None:
    """Against the derivative by hand: dS_i = s_i (dx_i - sum_j s_j dx_j / sum_j s_j) / tau, s the sigmoid's slope."""
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    active = largest(x.detach(), torch.full((3, 1), 3), None)
    upstream = torch.randn(3, 7, dtype=torch.float64)
    soft = soft_top(x, active, None, temperature)
    (soft * upstream).sum().backward()
    ranked = x.detach().sort(descending=True).values
    cut = (ranked[:, 2:3] + ranked[:, 3:4]) / 2
    torch.testing.assert_close(soft.detach(), torch.sigmoid((x.detach() - cut) / temperature))
    slope = soft.detach() * (1 - soft.detach())
    mean = (slope * upstream).sum(1, keepdim=True) / slope.sum(1, keepdim=True)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, slope * (upstream - mean) / temperature)
    torch.testing.assert_close(x.grad.sum(1), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("wanted", [0, 7])
def test_with_all_or_none_active_the_gradient_is_finite(wanted: int) -> None:
    x, padding = torch.randn(3, 9, requires_grad=True), torch.arange(9) >= torch.tensor([[7], [7], [0]])
    active = largest(x.detach(), torch.full((3, 1), wanted), padding)
    soft = soft_top(x, active, padding, 1.0)
    (soft * torch.randn(3, 9)).sum().backward()
    assert x.grad is not None
    assert bool(x.grad[:2, :7].any())
    assert bool(torch.isfinite(x.grad).all())
    assert not x.grad[padding].any()


def test_the_rate_term_does_not_move_it() -> None:
    """The number is fixed: a rate that is not the objective's gives no gradient, all other terms do."""
    still = {"dispatcher": {"type": "topk", "rate": 0.25}, "objective": {"rate": 0.75, "rate_weight": 1.0}}
    model = tiny(**still).train()
    _, parts = dyt.TuningStep(model)(torch.randn(3, 3, 32, 32), torch.arange(3) % CLASSES)
    assert parts["active_rate"].item() == 0.25
    routers = [site.dispatcher.router.weight for site in model.sites]
    slopes = torch.autograd.grad(parts["rate"], routers, retain_graph=True)
    assert all(slope.abs().max() < 1e-6 for slope in slopes)
    found = torch.autograd.grad(parts["cls"], routers[0])[0]
    assert found.abs().max() > 1e-5


def test_scores_are_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher, x = made(64, count=7), torch.randn(2, 50, 64)
    plain = dispatcher(x, DecisionContext(False, 0.0, ZERO)).active
    seen: list[torch.dtype] = []
    original = F.linear
    monkeypatch.setattr(F, "linear", lambda *args: seen.append(args[0].dtype) or original(*args))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dispatcher(x, DecisionContext(False, 0.0, ZERO)).active, plain)
    assert seen == [torch.float32]


@pytest.mark.parametrize("name", ["topk", "attention"])
def test_what_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises(dyt.SpecError, match=r"dispatcher\.level: .*chosen within each image; leave level at token"):
        tiny(dispatcher={"type": name, "level": "sample"})
    with pytest.raises(dyt.SpecError, match=r"dispatcher: .*give one of them"):
        tiny(dispatcher={"type": name, "rate": 0.5, "count": 3})
    with pytest.raises(dyt.SpecError, match=r"dispatcher\.count: .*greater than or equal to 1 \(given 0\)"):
        tiny(dispatcher={"type": name, "count": 0})


@pytest.mark.parametrize("name", ["topk", "attention"])
def test_thresholds_are_refused(name: str) -> None:
    """They would be moved without effect."""
    model, x = tiny(dispatcher=name, objective={"control": "threshold"}), torch.randn(2, 3, 32, 32)
    with pytest.raises(dyt.DyTError, match="its dispatcher scores no tokens or fixes their number"):
        dyt.TuningStep(model.train())(x, torch.arange(2))
    with pytest.raises(dyt.DyTError, match="its dispatcher scores no tokens or fixes their number"):
        calibrate_thresholds(model, [x], 0.5)


def test_rates_per_layer_are_the_default_of_their_sites() -> None:
    for name in ("topk", "attention"):
        model = tiny(dispatcher=name, objective={"layer_rates": [0.75, 0.25]})
        with torch.no_grad(), dyt.record(model) as routes:
            model(torch.randn(2, 3, 32, 32))
        assert [counts(route.active[:, 1:]) for route in routes] == [[12, 12], [4, 4]]
