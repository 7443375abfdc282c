"""torch.compile: whole graphs, the same numbers, and no more than one recompilation for a new batch size.

What dynamo captures is run as it is (backend "eager"), which is where graphs break and recompile; one test goes through
the C++ compiler. A torch that cannot read a ContextVar in what it traces splits the graph there: then the numbers are
compared all the same, and no graphs are counted.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dyt
from compilation import WHOLE
from laws.models import masks, tiny

SIZES = (2, 3, 5)
SMALL = {"depth": 1, "global_pool": "avg"}  # not the class token, which no mask of the last block concerns
"""One block: what is captured once is captured in the same way for each."""


class Captured:
    """A compiled module, and the graphs that were captured of it."""

    def __init__(self, module: nn.Module) -> None:
        torch.compiler.reset()
        self.graphs = 0
        self.run: Callable[..., Any] = torch.compile(module, fullgraph=WHOLE, backend=self.backend)

    def backend(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("variant", "executor"),
    [
        ("mlp", "sparse"),
        ("mlp", "masked"),
        ("mlp", "capacity"),
        ("attn", "masked"),
        ("attn", "capacity"),
        ("layer", "capacity"),
    ],
)
def test_inference_is_one_graph_for_all_batch_sizes(variant: str, executor: str) -> None:
    """The second size makes the batch size free, as torch.compile does by itself; no later one compiles again."""
    model = tiny(SMALL, variant={"type": variant}, capacity={"share": 0.6})
    compiled = Captured(model)
    with torch.no_grad(), dyt.execution(model, executor):
        for count in SIZES:
            x = images(count)
            torch.testing.assert_close(compiled.run(x), model(x), atol=1e-5, rtol=1e-5)
    assert compiled.graphs <= 2 or not WHOLE


@pytest.mark.parametrize("executor", ["sparse", "capacity"])
def test_other_masks_take_the_same_graph(executor: str) -> None:
    """No active patch token, one, some, all: values of tensors, not graphs; with no room the branch runs densely."""
    model, x = tiny(capacity={"share": 0.4}), images(3)
    compiled = Captured(model)
    with torch.no_grad(), dyt.execution(model, executor):
        for kind in ("ragged", "none", "one", "all"):
            with dyt.forced(model, masks(model, x, [kind], 1)):
                torch.testing.assert_close(compiled.run(x), model(x), atol=1e-5, rtol=1e-5)
    assert compiled.graphs == 1 or not WHOLE


def test_compiled_code_follows_the_contexts_around_it() -> None:
    model, x = tiny(SMALL), images(2)
    compiled = Captured(model)
    with torch.no_grad():
        plain = compiled.run(x)
        with dyt.execution(model, "complete"):
            torch.testing.assert_close(compiled.run(x), model(x))
            assert not torch.equal(compiled.run(x), plain)
        with dyt.record(model) as routes:
            compiled.run(x)
        with dyt.record(model) as expected:
            model(x)
        assert torch.equal(compiled.run(x), plain)
    assert [r.site for r in routes] == [r.site for r in expected]
    assert all(torch.equal(r.active, e.active) for r, e in zip(routes, expected, strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # in torch 2.8's own tracer
@pytest.mark.parametrize("variant", ["mlp", "attn_mlp"])
def test_a_tuning_step_is_one_graph_for_all_batch_sizes(variant: str) -> None:
    """Both passes, whose contexts are entered inside what is compiled, and the gradients of everything that learns."""
    model = tiny(SMALL, variant={"type": variant}).train()
    step = dyt.TuningStep(model)
    compiled = Captured(step)
    for count in SIZES:
        x, y = images(count), torch.arange(count) % 5
        found = []
        for run in (step, compiled.run):
            model.zero_grad()
            torch.manual_seed(0)
            loss, parts = run(x, y)
            loss.backward()
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            found.append((loss.detach(), {k: v.detach() for k, v in parts.items()}, gradients))
        torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)
    assert compiled.graphs <= 2 or not WHOLE
    assert model.key.traced is None


def test_contexts_inside_compiled_code_end_there() -> None:
    """A context entered in what is compiled holds for what is in it, nests, and leaves nothing behind."""
    model, x = tiny(SMALL), images(2)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            with dyt.execution(model, "masked"):
                with dyt.execution(model, "complete"):
                    complete = self.model(x)
                inside = self.model(x)
            return complete, inside, self.model(x)

    both = Both()
    compiled = Captured(both)
    with torch.no_grad():
        torch.testing.assert_close(compiled.run(x), both(x))
        with dyt.forced(model, masks(model, x, ["none"], 0)):
            torch.testing.assert_close(compiled.run(x), both(x))
    assert model.key.traced is None


def test_through_the_compiler(request: pytest.FixtureRequest) -> None:
    """Inductor's C++ code; half a minute, hence behind `--full`."""
    if not request.config.getoption("full"):
        pytest.skip("compiles C++, which takes half a minute; pytest --full")
    model = tiny(capacity={"share": 0.6})
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=WHOLE)
    with torch.no_grad():
        for executor in ("sparse", "capacity"):
            for count in (2, 3):
                with dyt.execution(model, executor):
                    torch.testing.assert_close(compiled(images(count)), model(images(count)), atol=1e-4, rtol=1e-4)
