"""Contexts that are not left as they nest are named errors and steer nothing; carried ones reach other threads."""

import contextlib
import contextvars
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import dyt
from dyt import ContextError
from dyt.core import context
from laws.models import masks, tiny

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> dyt.DynamicModel:
    return tiny()


@pytest.fixture(autouse=True)
def _nothing_stays(model: dyt.DynamicModel) -> Iterator[None]:
    yield
    assert context.current(model.key) is context._PLAIN


def active(model: dyt.DynamicModel) -> float:
    """The share of active tokens of a forward, as the present contexts have it; 0 if nothing but the prefix is."""
    with torch.no_grad(), dyt.record(model) as routes:
        model(X)
    return float(torch.stack([route.active[:, 1:].float().mean() for route in routes]).mean())


def test_left_in_another_order(model: dyt.DynamicModel) -> None:
    one, two = dyt.execution(model, "complete"), dyt.forced(model, masks(model, X, ["none"], 0))
    one.__enter__()
    two.__enter__()
    with pytest.raises(ContextError, match=r"left in another order than they nest; leave the one .* last first"):
        one.__exit__(None, None, None)
    assert context.current(model.key) is context._PLAIN
    with dyt.execution(model, "masked"):
        inside = context.current(model.key)
        with pytest.raises(ContextError, match="another order"):
            two.__exit__(None, None, None)
        assert context.current(model.key) is inside
    assert context.current(model.key) is context._PLAIN


def test_the_order_of_exit_stacks_is_right(model: dyt.DynamicModel) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(dyt.execution(model, "complete"))
            stack.enter_context(dyt.record(tiny()))
        assert active(model) == 1


def batches(model: dyt.DynamicModel, inside: bool) -> Iterator[float]:
    for _ in range(2):
        with dyt.execution(model, "complete"):
            share = active(model)
            if inside:
                yield share
        if not inside:
            yield share


def test_a_generator_that_rests_inside_a_context_steers_nobody(model: dyt.DynamicModel) -> None:
    free = active(model)
    assert free < 1
    generator = batches(model, inside=True)
    assert next(generator) == 1
    with pytest.raises(ContextError, match=r"a suspended generator entered; leave it before each yield"):
        active(model)
    with pytest.raises(ContextError, match="suspended generator"):
        dyt.carry_context(active)
    with pytest.raises(ContextError, match="suspended generator"), dyt.record(model):
        pass
    assert next(generator) == 1  # its own forwards are what it asks for
    generator.close()
    assert active(model) == free


def test_one_that_leaves_its_contexts_before_each_yield_is_well(model: dyt.DynamicModel) -> None:
    free = active(model)
    assert [(share, active(model)) for share in batches(model, inside=False)] == [(1, free)] * 2


def test_contexts_around_a_generator_are_well(model: dyt.DynamicModel) -> None:
    def plainly() -> Iterator[float]:
        yield active(model)
        with dyt.execution(model, "masked"):
            share = active(model)
        yield share

    with dyt.execution(model, "complete"):
        assert list(plainly()) == [1, 1]


def test_generators_between_which_contexts_cross(model: dyt.DynamicModel) -> None:
    one, two = batches(model, inside=True), batches(tiny(), inside=True)
    next(one)
    next(two)
    with pytest.raises(ContextError, match="another order"):
        one.close()
    with pytest.raises(ContextError, match="another order"):
        two.close()


def test_context_managers_and_fixtures_are_generators_that_rest_on_purpose(
    model: dyt.DynamicModel, steered: dyt.DynamicModel
) -> None:
    @contextlib.contextmanager
    def complete() -> Iterator[None]:
        with dyt.execution(model, "complete"):
            yield

    with complete():
        assert active(model) == 1
    assert active(steered) == 1

    def through() -> Iterator[float]:
        with complete():
            yield active(model)

    generator = through()
    assert next(generator) == 1
    with pytest.raises(ContextError, match="suspended generator"):
        active(model)
    generator.close()


@pytest.fixture
def steered() -> Iterator[dyt.DynamicModel]:
    model = tiny()
    with dyt.execution(model, "complete"):
        yield model


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_left_in_another_thread(model: dyt.DynamicModel) -> None:
    entered = dyt.execution(model, "complete")
    held = contextvars.copy_context()
    held.run(entered.__enter__)
    with pytest.raises(ContextError, match="in another thread or task than the one that entered it"):
        entered.__exit__(None, None, None)
    assert active(model) < 1


def test_a_generator_that_is_forgotten_leaves_its_context(model: dyt.DynamicModel) -> None:
    generator = batches(model, inside=True)
    next(generator)
    del generator
    gc.collect()
    assert active(model) < 1


# Threads --------------------------------------------------------------------------------------------------------------


def test_workers_see_what_is_carried(model: dyt.DynamicModel) -> None:
    free = active(model)
    with ThreadPoolExecutor(3) as pool, dyt.execution(model, "complete"):
        assert pool.submit(active, model).result() == free
        carried = dyt.carry_context(active)
        assert list(pool.map(carried, [model] * 6)) == [1] * 6
    assert carried(model) == 1  # also afterwards, and in this thread
    assert active(model) == free
    assert carried.__name__ == "active"


def test_a_carried_function_is_called_by_many_at_once(model: dyt.DynamicModel) -> None:
    """Python refuses to enter the same copy of a context twice at a time."""
    both = threading.Barrier(2)

    def wait() -> float:
        both.wait(10)
        return active(model)

    with ThreadPoolExecutor(2) as pool, dyt.execution(model, "complete"):
        carried = dyt.carry_context(wait)
        results = [pool.submit(carried) for _ in range(2)]
        assert [each.result() for each in results] == [1, 1]


def test_what_a_worker_enters_stays_with_it(model: dyt.DynamicModel) -> None:
    def entering() -> float:
        with dyt.forced(model, masks(model, X, ["none"], 0)):
            return active(model)

    with dyt.execution(model, "masked"), ThreadPoolExecutor(1) as pool:
        carried = dyt.carry_context(entering)
        assert [pool.submit(carried).result() for _ in range(2)] == [0, 0]
        assert active(model) > 0


def test_routes_of_workers_are_recorded(model: dyt.DynamicModel) -> None:
    with dyt.record(model) as routes, ThreadPoolExecutor(2) as pool, torch.no_grad():
        list(pool.map(dyt.carry_context(model), [X] * 4))
    assert len(routes) == 4 * len(model.sites)


def test_a_running_generator_carries_its_context(model: dyt.DynamicModel) -> None:
    def parallel() -> Iterator[float]:
        with dyt.execution(model, "complete"), ThreadPoolExecutor(1) as pool:
            yield from list(pool.map(dyt.carry_context(active), [model]))

    assert list(parallel()) == [1]


def test_errors_and_arguments_are_passed_on() -> None:
    def fail(value: int, *, times: int) -> int:
        raise ZeroDivisionError(value * times)

    with pytest.raises(ZeroDivisionError, match="6"):
        dyt.carry_context(fail)(2, times=3)
