"""Random routes, batch after batch: of each product few shapes, and memory that comes to an end."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import dyt
from dyt.core.context import changed
from dyt.executors import Sparse
from laws.models import tiny, token_shapes

FORWARDS = 200
BATCH = 6
VIT = {"patch_size": 4, "embed_dim": 16}
"""64 patch tokens and a class token: 390 in a batch, so that random routes of a layer hardly agree in their number."""
CACHED = ("mm", "linear", "convolution", "scaled_dot_product", "gelu", "layer_norm")
"""In the names of operators for which a library keeps something by shape."""
X = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Shapes(TorchDispatchMode):
    """The shapes that each product is given; which product it is, is told by the sizes that do not depend on routes."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed: set[int] = set()
        self.calls: list[tuple[str, tuple[tuple[int, ...], ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if any(word in name for word in CACHED):
            given = tree_leaves((args, kwargs or {}))
            self.calls.append((name, tuple(tuple(t.shape) for t in given if isinstance(t, Tensor))))
        return func(*args, **(kwargs or {}))

    def fix(self) -> None:
        """What was seen so far is the complete model: its sizes are fixed."""
        self.fixed = {size for _, shapes in self.calls for shape in shapes for size in shape}
        self.calls.clear()

    def most(self) -> int:
        """Of all products, the largest number of shapes."""
        found = defaultdict(set)
        for name, shapes in self.calls:
            kind = tuple(tuple(size if size in self.fixed else None for size in shape) for shape in shapes)
            found[name, kind].add(shapes)
        return max(len(each) for each in found.values())


@contextmanager
def routed(model: dyt.DynamicModel, seed: int, shapes: list[tuple[int, int]]) -> Iterator[None]:
    """Random routes of a rate that is itself random."""
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for site, shape in zip(model.sites, shapes, strict=True):
        mask = torch.rand(shape, generator=generator) < torch.rand((), generator=generator)
        mask[:, : site.prefix] = True
        masks.append(mask)
    with dyt.forced(model, masks):
        yield


def seen(model: dyt.DynamicModel, context: Callable[[], Any]) -> int:
    """The most shapes that a product took, in as many forwards without gradients."""
    shapes, tokens = Shapes(), token_shapes(model, X)
    with torch.no_grad(), shapes:
        with dyt.execution(model, "complete"):
            model(X)
        shapes.fix()
        for seed in range(FORWARDS):
            with routed(model, seed, tokens), context():
                model(X)
    return shapes.most()


@pytest.mark.parametrize("variant", ["mlp", "attn", "attn_mlp", "layer"])
def test_each_product_takes_few_shapes(variant: str) -> None:
    model = tiny(VIT | {"depth": 1}, variant={"type": variant})
    assert seen(model, lambda: dyt.execution(model, "sparse")) <= 32


def test_so_do_those_of_an_optimised_model() -> None:
    model = dyt.optimize(tiny(VIT | {"global_pool": "avg"}))
    assert seen(model, lambda: dyt.execution(model, "sparse")) <= 32


@pytest.mark.parametrize("variant", ["mlp", "attn"])
def test_with_a_row_for_each_token_there_are_many(variant: str) -> None:
    """That this would be seen: what counts the tokens' work has another shape for nearly every batch."""
    model = tiny(VIT | {"depth": 1}, variant={"type": variant})
    assert seen(model, lambda: changed(model.key, executor=Sparse(exact=True))) > 32


def test_each_product_of_a_training_step_takes_few_shapes() -> None:
    """Both groups of `sparse_backward`, forward and backward; the thresholds make the rate a random one."""
    model, shapes = tiny(VIT).train(), Shapes()
    generator = torch.Generator().manual_seed(0)
    rates = set()
    with shapes:
        with dyt.execution(model, "complete"):
            model(X).sum().backward()
        shapes.fix()
        for _ in range(FORWARDS):
            for site in model.sites:
                site.threshold.copy_(torch.randn((), generator=generator) * 4)
            with dyt.execution(model, "sparse_backward"), dyt.record(model) as routes:
                model(X).sum().backward()
            rates.update(int(route.active.sum()) for route in routes)
    assert len(rates) > 64, "the routes were to differ"
    assert shapes.most() <= 32


def test_memory_comes_to_an_end() -> None:
    """In a process of its own, after warming up; where products are cached by shape it grew from batch to batch."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "resident.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    early, late = map(float, done.stdout.split())
    assert late <= 1.15 * early
