"""Calibration, under a clock that the executors move: the decision follows what was measured."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dyt
from dyt.core.breakeven import BreakEven
from dyt.executors import Masked, Sparse
from dyt.inference import break_even as calibration
from dyt.inference.break_even import crossing
from dyt.io.checkpoint import CHECKSUM, checksum
from dyt.measure import latency
from laws.models import masks, tiny

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Seconds pass for executors alone: `masked` for every token, `sparse` for the active ones, and its overhead."""
    state: dict[str, Any] = {"now": 0.0, "overhead": lambda route: 0.0, "ran": []}

    def clocked(cls: type, name: str, seconds: Callable[[dyt.Route], float]) -> None:
        original = getattr(cls, name)

        def run(self: Any, fn: Any, x: Any, route: dyt.Route, *rest: Any) -> Any:
            if type(self) is cls:
                state["now"] += seconds(route)
                state["ran"].append((route.site, cls.__name__))
            return original(self, fn, x, route, *rest)

        monkeypatch.setattr(cls, name, run)

    for name in ("pointwise", "mixing"):
        clocked(Masked, name, lambda route: 100.0 * len(route.active))
        clocked(Sparse, name, lambda route: 100 * route.active.float().mean(1).sum().item() + state["overhead"](route))
    clocked(Sparse, "onto", lambda route: 100 * route.active.float().mean(1).sum().item() + state["overhead"](route))
    monkeypatch.setattr(calibration, "paired", partial(latency.paired, clock=lambda: state["now"]))
    return state


def test_a_clip_is_as_many_images_as_it_has_frames(costs: dict[str, Any]) -> None:
    model = tiny({"depth": 2}, head={"type": "query", "num_classes": 3})
    costs["overhead"] = lambda route: 20 * len(route.active)
    found = dyt.calibrate_break_even(model, torch.randn(1, 3, 3, 32, 32), (1, 2))
    for site in found.sites.values():
        assert site.batches == (3, 6)
        assert site.shares == pytest.approx((0.8, 0.8), abs=0.02)
    with pytest.raises(dyt.DyTError, match=r"sample is clips \(B, T, 3, H, W\)"):
        dyt.calibrate_break_even(model, X, (1,))


@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize(("overhead", "share"), [(0, 1.0), (20, 0.8), (50, 0.5), (99, 0.0)])
def test_the_break_even_is_where_skipping_takes_as_long(
    costs: dict[str, Any], overhead: float, share: float, optimized: bool
) -> None:
    """An overhead of 20 % of the branch: worth it up to 80 % active; at 99 % even the class token alone is too many."""
    costs["overhead"] = lambda route: overhead * len(route.active)
    model = tiny({"depth": 3})
    model = dyt.optimize(model, last_block=False) if optimized else model
    told: list[tuple[int, int]] = []
    found = dyt.calibrate_break_even(model, X, (1, 4), progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(1, 7)]
    assert list(found.sites) == [site.name for site in model.sites]
    for site in model.sites:
        assert site.break_even == found.sites[site.name]
        assert site.break_even.batches == (1, 4)
        assert site.break_even.shares == pytest.approx((share, share))


def test_each_site_and_each_batch_has_its_own(costs: dict[str, Any]) -> None:
    """A constant overhead weighs less in a larger batch."""
    costs["overhead"] = lambda route: 60.0 if route.site == "blocks.0.attn" else 20.0
    model = tiny(variant={"type": "attn_mlp"})
    found = dyt.calibrate_break_even(model, X, (4, 1)).sites
    assert found["blocks.0.attn"].shares == pytest.approx((0.4, 0.85))
    for name in ("blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"):
        assert found[name].shares == pytest.approx((0.8, 0.95))


def test_the_decision_follows_and_the_numbers_stay(costs: dict[str, Any]) -> None:
    costs["overhead"] = lambda route: 50.0 * len(route.active)
    model = tiny()
    dyt.calibrate_break_even(model, X, (2,))
    for kind, executor in (("none", "Sparse"), ("all", "Masked")):
        given_masks = masks(model, X, [kind], 0)
        with torch.no_grad(), dyt.forced(model, given_masks):
            costs["ran"].clear()
            out = model(X)
            assert costs["ran"] == [("blocks.0.mlp", executor), ("blocks.1.mlp", executor)]
            with dyt.execution(model, "masked"):
                torch.testing.assert_close(out, model(X), atol=2e-5, rtol=2e-5)


def test_what_is_expected_is_the_activity_of_the_sample(costs: dict[str, Any]) -> None:
    model = tiny()
    found = dyt.calibrate_break_even(model, X, (2,)).sites
    with torch.no_grad(), dyt.record(model) as routes:
        model(X)
    for route in routes:
        assert found[route.site].expected == pytest.approx(route.active.float().mean().item())
    assert "blocks.1.mlp: computes every token above 100% at batch 2; " in str(dyt.calibrate_break_even(model, X, (2,)))


def test_a_last_block_that_skips_nothing_has_none(costs: dict[str, Any]) -> None:
    optimized = dyt.optimize(tiny())
    assert list(dyt.calibrate_break_even(optimized, X, (1,)).sites) == ["blocks.0.mlp"]
    assert optimized.sites[1].break_even is None


@pytest.mark.parametrize("training", [True, False])
def test_only_the_break_even_changes(costs: dict[str, Any], training: bool) -> None:
    model = tiny().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dyt.calibrate_break_even(model, X, (1,))
    assert {module.training for module in model.modules()} == {training}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_hierarchical_models_have_one_too(costs: dict[str, Any]) -> None:
    from laws.backbones import BACKBONES

    row = next(row for row in BACKBONES.values() if row.family == "swin")
    model = dyt.build({"backbone": {"weights": "none"}, "head": {"num_classes": 5}}, backbone=row.make()).eval()
    found = dyt.calibrate_break_even(model, torch.randn(2, 3, *row.image), (2,)).sites
    assert [each.shares for each in found.values()] == [pytest.approx((1.0,))] * len(model.sites)


def test_it_is_kept_by_copies_and_by_optimize(costs: dict[str, Any]) -> None:
    model = tiny()
    dyt.calibrate_break_even(model, X, (1,))
    kept = [site.break_even for site in model.sites]
    assert [site.break_even for site in dyt.optimize(model).sites] == kept


def test_it_is_kept_in_the_file(costs: dict[str, Any], tmp_path: Path) -> None:
    costs["overhead"] = lambda route: 7.0 + 3 * int(route.site.split(".")[1])
    model, path = tiny(), tmp_path / "x.safetensors"
    dyt.save(model, path)
    with safe_open(path, "pt") as file:
        assert "break_even" not in file.metadata()
    dyt.calibrate_break_even(model, X, (1, 4))
    dyt.save(model, path)
    again = dyt.load(path, backbone=plain_of(model))
    assert [site.break_even for site in again.sites] == [site.break_even for site in model.sites]
    assert len({site.break_even.shares for site in again.sites if site.break_even}) == 2


@pytest.mark.parametrize("wrong", ["[]", "{", '{"blocks.0.mlp": {"batches": [1], "shares": [2], "expected": 0}}'])
def test_a_file_with_a_wrong_one_is_refused(wrong: str, tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "x.safetensors"
    dyt.save(model, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | {"break_even": wrong}
    tensors = load_file(path)
    save_file(tensors, path, metadata | {CHECKSUM: checksum(tensors, metadata)})
    with pytest.raises(dyt.CheckpointError, match=r"break.even cannot be used"):
        dyt.load(path, backbone=plain_of(model))


def plain_of(model: dyt.DynamicModel) -> torch.nn.Module:
    """The plain backbone, with the same frozen weights."""
    from timm import create_model

    from dyt.io.checkpoint import plain_state

    plain = create_model(model.spec.backbone.name, num_classes=5, **model.spec.backbone.args)
    plain.load_state_dict(plain_state(model.backbone))
    return plain


@pytest.mark.parametrize("sizes", [(), (0,), (1.5,), (4, -1)])
def test_wrong_batch_sizes_are_refused(sizes: Any) -> None:
    with pytest.raises(dyt.DyTError, match="batch_sizes are whole numbers from 1 on"):
        dyt.calibrate_break_even(tiny(), X, sizes)


@pytest.mark.parametrize("shape", [(0, 3, 32, 32), (3, 32, 32)])
def test_a_wrong_sample_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(dyt.DyTError, match="sample is images"):
        dyt.calibrate_break_even(tiny(), torch.zeros(shape))


def test_a_reducer_is_refused() -> None:
    with pytest.raises(dyt.UnsupportedError, match="reducer"):
        dyt.calibrate_break_even(tiny(reducer={"type": "tome", "r": 2}), X)


@pytest.mark.parametrize(
    ("times", "share"),
    [((0.2, 0.6, 1.4), 0.75), ((0.5, 1.0, 1.5), 0.5), ((1.0, 1.2, 1.3), 0.0), ((0.1, 0.2, 0.9), 1.0)],
)
def test_crossing(times: tuple[float, ...], share: float) -> None:
    assert crossing((0.0, 0.5, 1.0), times) == pytest.approx(share)


def test_break_even_is_frozen() -> None:
    with pytest.raises(AttributeError):
        BreakEven((1,), (0.5,), 0.5).expected = 1.0  # type: ignore[misc]
