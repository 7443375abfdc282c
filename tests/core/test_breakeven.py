"""A break-even decides from the measured shares; on the CPU by counting, elsewhere by what is expected."""

import pytest
import torch

import dyt
from dyt.core.breakeven import BreakEven
from dyt.executors import Masked, Sparse
from laws.models import masks, tiny

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def route(active: int, total: int = 10, batch: int = 1, device: str = "cpu") -> dyt.Route:
    return dyt.Route((torch.arange(total) < active).expand(batch, -1).to(device), 1)


@pytest.mark.parametrize(("active", "dense"), [(1, False), (6, False), (7, True), (10, True)])
def test_it_counts_on_the_cpu(active: int, dense: bool) -> None:
    assert BreakEven((1,), (0.6,), expected=0.0).prefers_dense(route(active)) is dense


@pytest.mark.parametrize(("expected", "dense"), [(0.5, False), (0.7, True)])
def test_elsewhere_it_goes_by_what_is_expected(expected: float, dense: bool) -> None:
    """The meta device has no values: reading one would fail, as it would make the host wait for a GPU."""
    for active in (1, 10):
        assert BreakEven((1,), (0.6,), expected).prefers_dense(route(active, device="meta")) is dense


@pytest.mark.parametrize(("limit", "dense"), [(0.0, True), (1.0, False)])
def test_the_ends_need_no_count(limit: float, dense: bool) -> None:
    assert BreakEven((1,), (limit,), 0.5).prefers_dense(route(10, device="meta")) is dense


@pytest.mark.parametrize(("batch", "share"), [(1, 0.1), (2, 0.1), (3, 0.2), (8, 0.2), (15, 0.2), (17, 0.3), (999, 0.3)])
def test_other_batches_use_the_nearest(batch: int, share: float) -> None:
    assert BreakEven((1, 8, 32), (0.1, 0.2, 0.3), 0.5).at(batch) == share


@pytest.mark.parametrize(
    "wrong", [((), (), 0.5), ((1, 8), (0.5,), 0.5), ((8, 1), (0.5, 0.5), 0.5), ((0,), (0.5,), 0.5), ((1,), (2.0,), 0.5)]
)
def test_what_is_no_break_even_is_refused(wrong: tuple[tuple[int, ...], tuple[float, ...], float]) -> None:
    with pytest.raises(dyt.DyTError, match="a break-even has batch sizes"):
        BreakEven(*wrong)


@pytest.mark.parametrize(("limit", "kind"), [(0.0, Masked), (0.5, Masked), (0.9, Sparse), (1.0, Sparse)])
def test_the_site_takes_the_executor_that_is_faster(limit: float, kind: type) -> None:
    site = tiny().sites[0]
    site.break_even = BreakEven((1,), (limit,), 0.5)
    assert type(site.executor(route(7))) is kind


def test_the_forward_context_and_train_mode_overrule_it() -> None:
    model = tiny()
    site = model.sites[0]
    site.break_even = BreakEven((1,), (0.0,), 0.5)
    with dyt.execution(model, "sparse"):
        assert type(site.executor(route(7))) is Sparse
    site.break_even = BreakEven((1,), (1.0,), 0.5)
    assert type(site.train().executor(False, route(7))) is Masked


@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize("variant", ["mlp", "attn", "attn_mlp", "layer"])
def test_both_sides_equal_masked(variant: str, optimized: bool) -> None:
    model = tiny(variant={"type": variant})
    run = dyt.optimize(model) if optimized else model
    for kind in ("none", "random", "ragged", "all"):
        given_masks = masks(model, X, [kind], 0)
        with torch.no_grad(), dyt.forced(model, given_masks), dyt.forced(run, given_masks):
            with dyt.execution(model, "masked"):
                expected = model(X)
            for limit in (0.0, 0.5, 1.0):
                for site in run.sites:
                    site.break_even = BreakEven((1,), (limit,), 0.5)
                torch.testing.assert_close(run(X), expected, atol=2e-5, rtol=2e-5)
