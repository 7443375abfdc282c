"""`learned`: its logits, threshold, noise, schedules and gradient."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import dyt
from dyt.config.files import parse_yaml
from dyt.config.schedules import Ramp
from dyt.dispatchers import BuildContext, DecisionContext, Learned, LearnedSpec, sampling
from laws.models import tiny

ZERO = torch.zeros(())


def made(dim: int = 6, depth: float = 0.0, **fields: Any) -> Learned:
    dispatcher = Learned(LearnedSpec(**fields), BuildContext(dim, depth))
    torch.nn.init.normal_(dispatcher.router.weight)
    return dispatcher


def test_it_starts_as_the_released_code_s() -> None:
    router = Learned(LearnedSpec(), BuildContext(4096)).router
    assert router.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert router.weight.abs().max().item() <= 2.0
    assert router.bias.item() == 0.0
    assert Learned(LearnedSpec(bias=2.5), BuildContext(4)).router.bias.item() == 2.5


def test_a_bias_may_run_over_depth() -> None:
    spec = LearnedSpec(bias=Ramp(start=4.0, end=0.0))
    assert [Learned(spec, BuildContext(4, depth)).router.bias.item() for depth in (0.0, 0.5, 1.0)] == [4.0, 2.0, 0.0]


@pytest.mark.parametrize("threshold", [0.0, 0.7, -0.7])
def test_inference_is_a_threshold_on_logits(threshold: float) -> None:
    dispatcher, x = made(), torch.randn(3, 5, 6)
    decision = dispatcher(x, DecisionContext(False, 0.0, torch.tensor(threshold)))
    logits = F.linear(x, dispatcher.router.weight, dispatcher.router.bias).squeeze(-1)
    assert decision.logits is not None
    torch.testing.assert_close(decision.logits, logits)
    assert torch.equal(decision.active, decision.logits > threshold)
    assert decision.gate is None
    assert not decision.dense
    if threshold == 0:
        assert torch.equal(decision.active, torch.sigmoid(decision.logits) > 0.5)


@pytest.mark.parametrize("level", ["token", "sample"])
def test_training_draws_once_and_has_the_gradient_of_eq_5(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher, x, drawn = made(level=level, temperature=3.0), torch.randn(2, 5, 6), []

    def noise(like: torch.Tensor) -> torch.Tensor:
        drawn.append(torch.linspace(-2, 2, like.numel()).reshape(like.shape))
        assert not like.requires_grad
        return drawn[-1]

    monkeypatch.setattr(sampling, "gumbel_difference", noise)
    decision = dispatcher(x, DecisionContext(True, 0.0, torch.tensor(0.25)))
    assert [d.shape for d in drawn] == [(2, 5 if level == "token" else 1)]
    tokens = x if level == "token" else x.mean(1, keepdim=True)
    excess = (tokens @ dispatcher.router.weight[0] + dispatcher.router.bias - 0.25 + drawn[0]).detach()
    assert torch.equal(decision.active, (excess > 0).expand(2, 5))
    assert decision.gate is not None
    assert torch.equal(decision.gate, decision.active.float())
    upstream = torch.randn(2, 5)
    (decision.gate * upstream).sum().backward()
    s = torch.sigmoid(excess / 3.0)
    slope = s * (1 - s) / 3.0 * (upstream if level == "token" else upstream.sum(1, keepdim=True))
    assert dispatcher.router.weight.grad is not None
    assert dispatcher.router.bias.grad is not None
    torch.testing.assert_close(dispatcher.router.weight.grad[0], torch.einsum("bp,bpc->c", slope, tokens))
    torch.testing.assert_close(dispatcher.router.bias.grad[0], slope.sum())


def test_without_noise_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher, x = made(noise=Ramp(start=1.0, end=0.0, until=0.5)), torch.randn(2, 5, 6)
    monkeypatch.setattr(sampling, "gumbel_difference", lambda like: torch.full_like(like, 100.0))
    assert bool(dispatcher(x, DecisionContext(True, 0.25, ZERO)).active.all())
    state = torch.get_rng_state()
    monkeypatch.setattr(sampling, "gumbel_difference", lambda like: pytest.fail("noise was drawn"))
    last = dispatcher(x, DecisionContext(True, 0.5, ZERO))
    assert torch.equal(last.active, dispatcher(x, DecisionContext(False, 0.0, ZERO)).active)
    assert torch.equal(state, torch.get_rng_state())


def test_noise_is_scaled_and_temperature_scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = made(noise=Ramp(start=1.0, end=0.0), temperature=Ramp(start=5.0, end=1.0))
    monkeypatch.setattr(sampling, "gumbel_difference", torch.ones_like)
    x, seen = torch.randn(1, 4, 6), []
    original = sampling.gumbel_sigmoid

    def spy(logits: torch.Tensor, noise: torch.Tensor, temperature: float) -> Any:
        seen.append((noise[0, 0].item(), temperature))
        return original(logits, noise, temperature)

    monkeypatch.setattr(sampling, "gumbel_sigmoid", spy)
    dispatcher(x, DecisionContext(True, 0.25, ZERO))
    assert seen == [(pytest.approx(0.75), pytest.approx(4.0))]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pure", [True, False])
def test_logits_are_float32_in_any_precision(training: bool, pure: bool) -> None:
    model = tiny().train(training)
    x = torch.randn(2, 3, 32, 32)
    if pure:
        model, x = model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=not pure), dyt.record(model) as routes:
        model(x)
    for route in routes:
        assert route.logits is not None
        assert route.logits.dtype == torch.float32
        assert not route.logits.requires_grad
        assert (route.gate is not None) == training
        assert route.gate is None or route.gate.dtype == torch.float32


def test_autocast_does_not_round_the_logits() -> None:
    dispatcher, x = made(64), torch.randn(2, 50, 64)
    plain = dispatcher.logits(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dispatcher.logits(x), plain)


def test_the_mean_token_is_float32() -> None:
    dispatcher, x = made(8, level="sample"), (torch.randn(2, 33, 8) + 3).bfloat16()
    exact = dispatcher.logits(x.float().mean(1, keepdim=True))
    decision = dispatcher(x, DecisionContext(False, 0.0, ZERO))
    assert decision.logits is not None
    torch.testing.assert_close(decision.logits, exact.expand(2, 33), atol=1e-5, rtol=1e-5)


def test_the_schedule_of_table_9_is_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """tau from 5 to 0.1 over training: written in YAML, read at the step's progress, and trained at its end."""
    text = "dispatcher: {type: learned, temperature: {start: 5.0, end: 0.1}}"
    model = tiny(**parse_yaml(text), objective={"rate": 0.3717}).train()
    seen, original = [], sampling.gumbel_sigmoid

    def spy(logits: torch.Tensor, noise: torch.Tensor | None, temperature: float) -> Any:
        seen.append(temperature)
        return original(logits, noise, temperature)

    monkeypatch.setattr(sampling, "gumbel_sigmoid", spy)
    step, x = dyt.TuningStep(model), torch.randn(4, 3, 32, 32)
    for progress in (0.0, 0.5, 1.0):
        loss, _ = step(x, torch.arange(4), progress)
    assert seen == pytest.approx([5.0, 5.0, 2.55, 2.55, 0.1, 0.1])
    loss.backward()
    for site in model.sites:
        assert site.dispatcher.router.weight.grad is not None
        assert bool(torch.isfinite(site.dispatcher.router.weight.grad).all())
        assert bool(site.dispatcher.router.weight.grad.any())
    with pytest.raises(dyt.DyTError, match="this spec has schedules: pass progress"):
        step(x, torch.arange(4))
