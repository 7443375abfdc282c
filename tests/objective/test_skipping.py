"""`router_gradient`: whose branches tell the dispatchers; `spread`: a target rate for each step."""

from typing import Any

import pytest
import torch

import dyt
from dyt.core import context
from dyt.core.route import Route, told
from dyt.executors import Masked, SparseBackward
from dyt.testing.cases import tiny

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4) % 5
ALONE: dict[str, Any] = {"rate_weight": 0.0, "complete": 0.0, "distill": 0.0}


def model(variant: str = "mlp", **objective: Any) -> dyt.DynamicModel:
    """Always the same one, in train mode, with adapters that add something."""
    torch.manual_seed(0)
    made = tiny(
        variant={"type": variant},
        dispatcher={"type": "learned", "noise": 0.0},
        adapter={"type": "bottleneck", "dim": 8, "dropout": 0.0},
        objective=ALONE | objective,
    ).train()
    for site in made.sites:
        torch.nn.init.normal_(site.adapter.up.weight, std=0.1)
    return made


def gradients(made: dyt.DynamicModel, share: float | None, executor: Any, images: torch.Tensor = IMAGES) -> list[Any]:
    made.zero_grad()
    torch.manual_seed(1)
    with context.changed(made.key, told=share, executor=executor):
        out = made(images)
    out.square().sum().backward()
    return [out.detach(), *(None if p.grad is None else p.grad.clone() for p in made.parameters())]


@pytest.mark.parametrize("share", [1.0, 0.3, 0.0, None])
@pytest.mark.parametrize("variant", ["mlp", "attn", "attn_mlp", "layer"])
def test_values_and_all_gradients_are_those_of_masked(variant: str, share: float | None) -> None:
    made = model(variant)
    found, wanted = (gradients(made, share, executor) for executor in (SparseBackward(), Masked()))
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_expected_gradient_of_a_sample_is_that_of_all_tokens() -> None:
    """The mean over all ways to draw, each with its probability, is exact for the gate of one site."""
    x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    active, share = torch.tensor([[True, False, False]]), 0.25

    def of(multiplier: torch.Tensor | None) -> torch.Tensor:
        gate = active.float().requires_grad_()
        SparseBackward().pointwise(torch.exp, x, Route(active, 0, gate, told=multiplier)).sum().backward()
        assert gate.grad is not None
        return gate.grad

    mean = torch.zeros(1, 3)
    for drawn in ([0, 0], [0, 1], [1, 0], [1, 1]):
        probability = share ** sum(drawn) * (1 - share) ** (2 - sum(drawn))
        mean += probability * of(torch.tensor([[1.0, drawn[0] / share, drawn[1] / share]]))
    torch.testing.assert_close(mean, of(None))


def test_a_share_of_the_inactive_tokens_is_drawn() -> None:
    active = torch.rand(20, 500, generator=torch.Generator().manual_seed(0)) < 0.5
    torch.manual_seed(7)
    multiplier = told(Route(active, 0, active.float()), 0.2).told
    assert multiplier is not None
    assert (multiplier[active] == 1).all()
    assert multiplier[~active].unique().tolist() == [0.0, 5.0]
    assert float((multiplier[~active] > 0).float().mean()) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("how", ["all", "sampled", "active", "none"])
def test_what_is_computed(how: str) -> None:
    """In `none` and `active` as many rows as tokens are active; in `all` every row, whatever the mask."""
    made = model(router_gradient=how, **({"router_sample": 0.5} if how == "sampled" else {}))
    rows = []
    for block in made.dynamic_blocks:
        block.mlp.register_forward_hook(lambda module, args, out: rows.append(out.shape[:-1].numel()))
    with dyt.record(made) as routes:
        dyt.TuningStep(made)(IMAGES, LABELS)
    active, total = (
        sum(int(n) for n in found)
        for found in zip(*((route.active.sum(), route.active.numel()) for route in routes), strict=True)
    )
    assert 0 < active < total
    if how == "all":
        assert sum(rows) >= total
    elif how == "sampled":
        assert active < sum(rows) < total
    else:
        assert active <= sum(rows) <= active + 3 * len(routes)  # rows are rounded up


def test_dispatchers_that_are_told_nothing_are_not_trained() -> None:
    made = model(router_gradient="none")
    names = {name for name, p in made.named_parameters() if p.requires_grad}
    assert names
    assert not any(".dispatcher." in name for name in names)
    loss, _ = dyt.TuningStep(made)(IMAGES, LABELS)
    loss.backward()
    assert all(p.grad is not None for p in made.parameters() if p.requires_grad)


@pytest.mark.parametrize("how", ["all", "sampled", "active"])
def test_the_rate_s_penalty_reaches_all_logits(how: str) -> None:
    """It needs no branch, so that its gradient is the same however few branches tell the dispatcher."""
    found = []
    for given in ("all", how):
        made = model(router_gradient=given, rate=0.1, rate_weight=1.0)
        torch.manual_seed(1)
        _, parts = dyt.TuningStep(made)(IMAGES, LABELS)
        parts["rate"].backward()
        found.append([site.dispatcher.router.weight.grad for site in made.sites])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_a_penalty_that_moves_nothing_is_refused() -> None:
    with pytest.raises(dyt.SpecError, match=r"router_gradient: none .* rate_weight: 0"):
        dyt.build({"objective": {"router_gradient": "none"}})


def test_each_step_has_a_rate_of_its_own_and_the_thresholds_follow() -> None:
    """Over many steps they cover the range evenly; the rate of each is reached by the thresholds of the step before."""
    objective = dyt.ObjectiveSpec(rate=0.3, spread=(0.2, 0.9), control="threshold", rate_weight=0.0)
    asked = [objective.asked_rate(0.5, step) for step in range(200)]
    for k in range(7):
        low = 0.2 + 0.1 * k
        assert sum(low <= rate < low + 0.1 for rate in asked) == pytest.approx(200 / 7, abs=3)
    assert objective.asked_rate(0.5) == 0.3
    for rate in (0.1, 1.0):  # beyond the range, which then has it for a bound
        wider = [objective.model_copy(update={"rate": rate}).asked_rate(0.5, step) for step in range(200)]
        assert min(wider) == pytest.approx(min(rate, 0.2), abs=0.01)
        assert max(wider) == pytest.approx(max(rate, 0.9), abs=0.01)
    made = model(rate=0.3, spread=[0.2, 0.9], control="threshold")
    step = dyt.TuningStep(made)
    with pytest.raises(dyt.DyTError, match="pass step"):
        step(IMAGES, LABELS)
    for number in range(6):
        _, parts = step(IMAGES, LABELS, step=number)
        if number:  # the images are the same, and nothing is learned between
            assert float(parts["active_rate"]) == pytest.approx(objective.asked_rate(0.0, number), abs=0.02)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"control": "loss"}, "control: threshold"),
        ({"layer_rates": [0.5, 0.5]}, "no layer_rates"),
        ({"spread": [0.9, 0.6]}, r"given \[0.9, 0.6\]"),
    ],
)
def test_a_spread_that_cannot_be_kept_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(dyt.SpecError, match=why):
        dyt.build({"objective": {"spread": [0.2, 0.9], "control": "threshold"} | changes})
