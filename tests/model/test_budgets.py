"""`dyt.budgets`: each image is computed as it is alone at its own rate, and nothing is stored on the model."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import dyt
from compilation import WHOLE
from dyt.io.export import program
from laws.models import tiny

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
RATES = (0.1, 0.35, 0.35, 1.0)


def calibrated(**changes: Any) -> dyt.DynamicModel:
    model = tiny(**changes).eval()
    for site in model.sites:
        torch.nn.init.normal_(site.dispatcher.router.weight, std=0.3)
    dyt.calibrate_budgets(model, [X], (0.1, 0.5, 0.9, 1.0), tolerance=0.02)
    return model


@torch.no_grad()
def alone(model: dyt.DynamicModel) -> tuple[Tensor, list[Tensor]]:
    """Each image by itself at its rate; for each site the active tokens of all."""
    outputs, active = [], []
    for image, rate in zip(X, RATES, strict=True):
        model.budget = rate
        with dyt.record(model) as routes:
            outputs.append(model(image[None]))
        active.append([route.active for route in routes])
    return torch.cat(outputs), [torch.cat(own) for own in zip(*active, strict=True)]


@pytest.mark.parametrize("execution", ["masked", "sparse", "capacity", None])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"variant": "attn_mlp"},
        {"variant": "layer"},
        {"dispatcher": {"type": "learned", "level": "sample"}},
    ],
    ids=["mlp", "attn_mlp", "layer", "samples"],
)
def test_each_image_is_computed_as_alone(changes: dict[str, Any], execution: str | None) -> None:
    model = calibrated(**changes)
    outputs, active = alone(model)
    model.budget = 0.7
    given: Any = RATES if execution is None else torch.tensor(RATES, dtype=torch.float64)
    with torch.no_grad(), dyt.budgets(model, given), dyt.record(model) as routes:
        if execution is None:
            found = model(X)
        else:
            with dyt.execution(model, execution):
                found = model(X)
    assert all(torch.equal(route.active, own) for route, own in zip(routes, active, strict=True))
    torch.testing.assert_close(found, outputs, atol=1e-6, rtol=1e-5)
    patches = torch.stack([own[:, 1:].float().mean(1) for own in active]).mean(0)
    assert patches[0] < patches[-1] == 1
    assert model.budget == 0.7


@pytest.mark.parametrize("last_block", [True, False])
def test_optimised_models_too(last_block: bool) -> None:
    model = dyt.optimize(calibrated(), last_block)
    outputs, active = alone(model)
    with torch.no_grad(), dyt.budgets(model, RATES), dyt.record(model) as routes:
        found = model(X)
    assert all(torch.equal(route.active, own) for route, own in zip(routes, active, strict=True))
    torch.testing.assert_close(found, outputs, atol=1e-6, rtol=1e-5)


def test_one_rate_is_that_of_every_image_of_every_batch() -> None:
    model = calibrated()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad(), dyt.budgets(model, 0.35):
        many, one = model(X), model(X[:1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.budget = 0.35
    with torch.no_grad():
        assert torch.equal(model(X), many)
        torch.testing.assert_close(one, many[:1], atol=1e-6, rtol=1e-5)


def test_the_inner_one_wins_and_the_outer_one_comes_back() -> None:
    model = calibrated()
    with torch.no_grad(), dyt.budgets(model, 0.1), dyt.record(model) as routes:
        with dyt.budgets(model, 1.0):
            model(X)
        model(X)
        with dyt.execution(model, "complete"):
            model(X)
    shares = [float(route.active[:, 1:].float().mean()) for route in routes]
    assert shares[:2] == shares[4:] == [1, 1]
    assert max(shares[2:4]) < 0.3


def test_threads_do_not_disturb_one_another() -> None:
    model, turn = calibrated(), threading.Barrier(2)

    def forward(rate: float) -> Tensor:
        with torch.no_grad(), dyt.budgets(model, rate):
            turn.wait(10)  # both are inside
            return model(X)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(forward, (0.2, 0.9)))
    for rate, own in zip((0.2, 0.9), found, strict=True):
        model.budget = rate
        with torch.no_grad():
            assert torch.equal(model(X), own)


def test_what_are_no_rates_is_refused() -> None:
    model = calibrated()
    with (
        pytest.raises(dyt.DyTError, match=r"rates of 3 images were given, and site blocks\.0\.mlp is given 4"),
        dyt.budgets(model, RATES[:3]),
    ):
        model(X)
    for rates, words in (
        ((), "one number, or one for each image; given ()"),
        ("0.4", "one number, or one for each image; given '0.4'"),
        (torch.rand(2, 2), r"one number or \(B,\); given a tensor of shape \(2, 2\)"),
        ((0.4, "a"), "budget is 'a'; it is a rate"),
        ((0.4, float("nan")), "budget is nan; allowed are rates from 0.1 to 1"),
        (0.05, "budget is 0.05; allowed are rates from 0.1 to 1"),
        (torch.tensor(0.05), "budget is 0.05; allowed are rates from 0.1 to 1"),
    ):
        with pytest.raises(dyt.DyTError, match=words), dyt.budgets(model, rates):  # type: ignore[arg-type]
            pass
    with pytest.raises(dyt.DyTError, match="calibrate first"), dyt.budgets(tiny(), 0.4):
        pass
    with pytest.raises(dyt.UnsupportedError, match="export outside of their contexts"), dyt.budgets(model, 0.4):
        program(model, X)


def test_clips_have_one_rate_for_all() -> None:
    model = tiny(head={"type": "query", "num_classes": 3}).eval()
    clips = X.reshape(2, 2, 3, 32, 32)
    dyt.calibrate_budgets(model, [clips], (0.2, 1.0), tolerance=0.02)
    with torch.no_grad(), dyt.budgets(model, 1.0), dyt.record(model) as routes:
        model(clips)
    assert all(bool(route.active.all()) for route in routes)
    with pytest.raises(dyt.UnsupportedError, match="a model of clips takes one rate"), dyt.budgets(model, (0.2, 0.4)):
        pass


def test_a_compiled_model_takes_another_budget_without_compiling_anew(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("compiles twice, several seconds; use --full")
    model, graphs = calibrated(), []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=WHOLE, backend=backend)
    with torch.no_grad(), dyt.execution(model, "masked"):
        found = []
        for rate in (0.1, 0.9):
            model.budget = rate
            found.append(compiled(X))
        captured = len(graphs)
        for rates in (RATES, RATES[::-1]):
            with dyt.budgets(model, rates):
                found.append(compiled(X))
                torch.testing.assert_close(found[-1], model(X), atol=1e-5, rtol=1e-5)
    if WHOLE:
        assert captured == 1
        assert len(graphs) == 2
    assert not torch.allclose(found[0], found[1])
