"""`random` keeps its rate in train and eval mode, and follows torch's seed."""

import pytest
import torch

import dyt
from dyt.dispatchers import BuildContext, DecisionContext, Random, RandomSpec
from laws.models import tiny

ZERO = torch.zeros(())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("level", ["token", "sample"])
def test_its_rate(training: bool, level: str) -> None:
    dispatcher = Random(RandomSpec(rate=0.3, level=level), BuildContext(2, rate=0.9))
    active = dispatcher(torch.zeros(4000, 5, 2), DecisionContext(training, 0.0, ZERO)).active
    assert active.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert bool((active == active[:, :1]).all()) == (level == "sample")


def test_the_objective_s_rate_is_the_default() -> None:
    model = tiny(dispatcher={"type": "random"}, objective={"rate": 1.0})
    with torch.no_grad(), dyt.record(model) as routes:
        model(torch.randn(3, 3, 32, 32))
    assert all(bool(route.active.all()) for route in routes)
    assert all(route.gate is None and route.logits is None for route in routes)


def test_it_is_repeatable() -> None:
    model, x, found = tiny(dispatcher={"type": "random"}), torch.randn(3, 3, 32, 32), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with torch.no_grad(), dyt.record(model) as routes:
            model(x)
        found.append(torch.stack([route.active for route in routes]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
