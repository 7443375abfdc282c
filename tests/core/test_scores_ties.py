"""Ties broken by place: the spread, its inverse, the paper's rule at 0, and models in which it is used."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import dyt
from compilation import WHOLE
from dyt.core import scores
from dyt.executors import Masked
from dyt.testing.cases import tiny

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("patches", [1, 2, 16, 49, 196, 576, 4096])
def test_places_are_spread_evenly_and_each_is_its_own(patches: int) -> None:
    offsets = scores.by_place(torch.tensor(scores.LEAST), patches) / scores.WIDTH
    assert float(offsets.abs().max()) < 0.5
    ordered = offsets.sort().values
    assert len(ordered.unique()) == patches
    even = (torch.arange(patches) + 0.5) / patches - 0.5
    assert float((ordered - even).abs().max()) < 2 / patches**0.5
    assert torch.equal(offsets, scores.by_place(torch.tensor(scores.LEAST), 5000)[:patches] / scores.WIDTH)


def test_a_threshold_of_0_is_compared_with_as_it_is() -> None:
    assert torch.equal(scores.by_place(torch.zeros(()), 100), torch.zeros(100))
    assert float(scores.breaking(torch.zeros(()))) == scores.LEAST
    assert float(scores.breaking(torch.tensor(-0.5))) == -0.5


@pytest.mark.parametrize("threshold", [scores.LEAST, -scores.LEAST, 1e-5, -1e-5, 0.7, -0.7, 30.0, -30.0, 1e4])
def test_the_inverse_says_the_same(threshold: float) -> None:
    """But for logits within rounding of the place's threshold."""
    t = torch.tensor(threshold)
    bound = scores.by_place(t, 64)
    assert float((bound - t).abs().max()) <= scores.WIDTH * (1 + abs(threshold)) / 2
    for scale in (1e-3, 1e-2, 1.0):
        logits = bound + scale * torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
        clear = (logits - bound).abs() > 1e-5 * (1 + abs(threshold))
        assert torch.equal((scores.evened(logits) > t)[clear], (logits > bound)[clear])
        assert float(clear.float().mean()) > 0.5 or abs(threshold) * 1e-5 > scale


def test_what_is_kept_serves_a_backward_pass_after_inference_mode() -> None:
    with torch.inference_mode():
        scores.by_place(torch.ones(()), 123)
    logits = torch.zeros(2, 123, requires_grad=True)
    (logits - scores.by_place(torch.ones(()), 123)).square().sum().backward()
    assert logits.grad is not None


def test_a_threshold_stays_float32_however_the_model_is_cast(tmp_path: Any) -> None:
    model = tiny()
    model.sites[0].threshold.fill_(0.123456789)
    for cast in (model.bfloat16(), model.double(), model.half().float()):
        assert cast.sites[0].threshold.dtype == torch.float32
        assert float(cast.sites[0].threshold) == float(torch.tensor(0.123456789))
    assert model.to("meta").sites[0].threshold.device.type == "meta"


def test_files_with_thresholds_in_the_model_s_dtype_still_load(tmp_path: Any) -> None:
    """As they were before thresholds stayed float32."""
    model = tiny(trainable="full").bfloat16()
    whole = dyt.io.checkpoint.stored(model)
    path = tmp_path / "model.safetensors"
    for site in model.sites:
        site._buffers["threshold"] = torch.tensor(0.375, dtype=torch.bfloat16)
    dyt.save(model, path)
    loaded = dyt.load(path)
    assert {site.threshold.dtype for site in loaded.sites} == {torch.float32}
    assert [float(site.threshold) for site in loaded.sites] == [0.375] * len(loaded.sites)
    assert {t.dtype for key, t in dyt.io.checkpoint.stored(loaded).items() if "threshold" not in key} == {
        torch.bfloat16
    }
    assert set(dyt.io.checkpoint.stored(loaded)) == set(whole)


@pytest.mark.parametrize("level", ["token", "sample"])
def test_a_moment_has_a_threshold_for_each_place_or_one_for_the_image(level: str) -> None:
    model, seen = tiny(dispatcher={"type": "learned", "level": level}), []
    model.sites[0].threshold.fill_(0.2)
    decide = model.sites[0].dispatcher.decide
    model.sites[0].dispatcher.decide = lambda tokens, context: seen.append(context.threshold) or decide(tokens, context)
    with torch.no_grad():
        model(X)
    assert seen[0].shape == ((16,) if level == "token" else ())


def equal_logits(model: dyt.DynamicModel, threshold: float) -> dyt.DynamicModel:
    with torch.no_grad():
        for site in model.sites:
            site.dispatcher.router.weight.zero_()
            site.dispatcher.router.bias.fill_(threshold)
            site.threshold.fill_(threshold)
    return model


@pytest.mark.parametrize("how", ["compiled", "exported", "optimised"])
def test_ties_are_broken_alike_however_the_model_is_run(how: str) -> None:
    model = equal_logits(tiny(), 0.5)
    with torch.no_grad(), dyt.record(model) as routes:
        expected = model(X)
    active = routes[0].active[:, 1:]
    assert 7 <= int(active[0].sum()) <= 9  # of 16, since they are spread evenly around 0
    if how == "compiled":
        run: Any = torch.compile(model, fullgraph=WHOLE, backend="eager")
    elif how == "exported":
        with dyt.execution(model, Masked.__name__.lower()):
            run = torch.export.export(model, (X,)).module()
    else:
        run = dyt.optimize(model)
    with torch.no_grad():
        torch.testing.assert_close(run(X), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("reducer", [{"type": "tome", "r": 4}, {"type": "evit", "keep": 0.5, "layers": [0]}])
def test_fewer_tokens_are_other_places(reducer: dict[str, Any]) -> None:
    model = equal_logits(tiny(reducer=reducer), 0.5)
    with torch.no_grad(), dyt.record(model) as routes:
        model(X)
    for route in routes:
        patches = route.active[:, route.prefix :]
        assert torch.equal(patches, (scores.by_place(torch.tensor(0.5), patches.shape[1]) < 0.5).expand_as(patches))
        assert 0.25 <= float(patches.float().mean()) <= 0.75


def test_no_fake_tensor_is_kept_for_others() -> None:
    """In a fake mode a model's own tensors are real ones, and only what is made from nothing is fake."""
    threshold, patches = torch.tensor(0.3), 23  # a number that no other test has
    with FakeTensorMode(allow_non_fake_inputs=True):
        inside = scores.by_place(threshold, patches)
    assert isinstance(inside, FakeTensor)
    assert type(scores.by_place(threshold, patches)) is torch.Tensor
