"""ForwardContext: contexts nest, restore, and never leak into another model, thread or copy."""

import asyncio
import copy
import pickle
import threading

import pytest
import torch

import dyt
from dyt.core import context
from laws.models import masks, tiny

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def run(model: dyt.DynamicModel) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(X)
    return out


def test_contexts_nest_and_restore() -> None:
    model = tiny()
    free, none = run(model), masks(model, X, ["none"], 0)
    with dyt.execution(model, "complete"):
        complete = run(model)
    with dyt.forced(model, none):
        skipped = run(model)
        with dyt.execution(model, "complete"):
            assert torch.equal(run(model), complete)
            with dyt.execution(model, "masked"):
                assert torch.equal(run(model), complete)
        assert torch.equal(run(model), skipped)
        with dyt.forced(model, masks(model, X, ["all"], 0)):
            torch.testing.assert_close(run(model), complete)
        assert torch.equal(run(model), skipped)
    assert torch.equal(run(model), free)
    assert len({tuple(t.flatten().tolist()) for t in (free, complete, skipped)}) == 3


def test_an_exception_restores() -> None:
    model = tiny()
    for entered in (
        dyt.execution(model, "complete"),
        dyt.forced(model, masks(model, X, ["none"], 0)),
        dyt.record(model),
    ):
        with pytest.raises(ZeroDivisionError), entered:
            raise ZeroDivisionError
        assert context.current(model.key) == context.current(context.ModelKey()), entered


def test_a_forward_that_fails_leaves_no_trace() -> None:
    model = tiny()
    free = run(model)
    with dyt.forced(model, [m[:1] for m in masks(model, X, ["none"], 0)]), pytest.raises(dyt.DyTError, match="shape"):
        run(model)
    assert torch.equal(run(model), free)


def test_two_models_do_not_meet() -> None:
    one, two = tiny(), tiny()
    free = run(two)
    with dyt.execution(one, "complete"), dyt.record(one) as routes:
        assert torch.equal(run(two), free)
        assert routes == []


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_its_own_model(clone: object) -> None:
    model = tiny()
    assert callable(clone)
    with dyt.execution(model, "complete"), dyt.record(model) as routes:
        twin = clone(model)
        assert routes == []
        run(twin)
        assert routes == []
    free = run(model)
    assert torch.equal(run(twin), free)
    with dyt.execution(twin, "complete"), dyt.record(twin) as routes:
        assert torch.equal(run(model), free)
        assert routes == []
        assert not torch.equal(run(twin), free)
        assert [route.site for route in routes] == [site.name for site in twin.sites]
    assert all(site.key is twin.key for site in twin.sites)
    assert twin.key is not model.key


def test_threads_do_not_meet() -> None:
    model = tiny()
    free = run(model)
    with dyt.execution(model, "complete"):
        complete = run(model)
    barrier, found = threading.Barrier(2), {}

    def work(name: str) -> None:
        for _ in range(5):
            barrier.wait()
            if name == "complete":
                with dyt.execution(model, "complete"):
                    barrier.wait()
                    found.setdefault(name, []).append(run(model))
            else:
                barrier.wait()
                found.setdefault(name, []).append(run(model))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("complete", "free")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torch.allclose(complete, free, atol=1e-3)
    for name, expected in {"complete": complete, "free": free}.items():
        torch.testing.assert_close(found[name], [expected] * 5)


def test_coroutines_do_not_meet() -> None:
    model = tiny()
    free = run(model)

    async def forced() -> torch.Tensor:
        with dyt.execution(model, "complete"):
            await asyncio.sleep(0)
            return run(model)

    async def plain() -> torch.Tensor:
        await asyncio.sleep(0)
        return run(model)

    async def both() -> list[torch.Tensor]:
        return await asyncio.gather(forced(), plain())

    complete, other = asyncio.run(both())
    assert torch.equal(other, free)
    assert not torch.equal(complete, free)


def test_the_policy_is_named() -> None:
    model = tiny()
    with dyt.forced(model, masks(model, X, ["none"], 0)):
        assert context.current(model.key).policy == "forced"
        with dyt.execution(model, "complete"):
            assert context.current(model.key).policy == "complete"
    assert context.current(model.key).policy == "routed"
