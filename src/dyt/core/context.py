"""The three contexts: BuildContext, where a component stands; DecisionContext, what a decision may depend on; and
ForwardContext, how this forward is to run: a frozen value in a ContextVar, keyed by model, read once by each site.

Nothing is stored on modules, so that two models, two threads or a nested context never disturb one another.

torch.compile guards on the forward context in which compiled code is called. It cannot trace a change of a
ContextVar, so that contexts entered inside compiled code (those of a tuning step) are noted on the model's key while it
traces: the tracer undoes what it noted before compiled code runs, and no run ever sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from dyt.core.execution import Executor
from dyt.core.nesting import check_running, nested, resting
from dyt.core.route import Route, SharedPrefix

P = ParamSpec("P")
T = TypeVar("T")


def _zero() -> Tensor:
    """A tensor as a default would be a constant without a source, which torch.compile cannot guard."""
    return torch.zeros(())


@dataclass(frozen=True)
class BuildContext:
    """Where a component stands in its model, for what it has to know when it is made.

    Attributes:
        dim: channels C of the tokens.
        depth: 0 at the model's first site, 1 at its last, evenly spaced between.
        rate: the objective's activation rate r, for dispatchers that keep a rate by construction.
        block: of a reducer, which block it stands in, from 0.
        index: of a reducer, which of the model's it is, from 0.
        of: how many reducers the model has.
    """

    dim: int
    depth: float = 0.0
    rate: float = 0.5
    block: int = 0
    index: int = 0
    of: int = 1


@dataclass(frozen=True, eq=False)
class DecisionContext:
    """What the decision of a dispatcher, or of a reducer, may depend on beside the tokens.

    Attributes:
        training: whether to decide as in fine-tuning (noise, gradient); for reducers False in the complete pass.
        progress: fraction of the training done, for schedules.
        threshold: float32, the site's threshold on logits: (P,) at token level, each place's own, so that ties are
            broken by place (`dyt.core.scores`) and all 0 where the site's is 0; () at sample level. Where each image
            has a threshold of its own (`dyt.budgets`), (B, P) and (B, 1). To be subtracted from, or compared with,
            logits (B, P) or (B, 1).
        padding: (B, P) bool, True at padding tokens, or None.
        attention: computes (B, P) float32, the class token's attention to each patch token at the block's input;
            None unless the component's class says `needs_attention`.
        scores: computes (B, P) float32, the router's logits, where a rewrite has them of another product; None unless
            the dispatcher is such a rewrite's.
        prefix: of a reducer, number of prefix tokens, first in order; a dispatcher is given none of them.
        keys: (B, N, D), the mean over heads of the block's attention keys, detached; None unless the reducer
            `needs_keys`.
    """

    training: bool
    progress: float = 0.0
    threshold: Tensor = field(default_factory=_zero)
    padding: Tensor | None = None
    attention: Callable[[], Tensor] | None = None
    scores: Callable[[], Tensor] | None = None
    prefix: int = 0
    keys: Tensor | None = None


class ModelKey:
    """The identity of a model, shared by its sites; a deepcopy of the model gets a new one, shared by its sites."""

    traced: ForwardContext | None = None
    """The forward context inside a context that torch.compile is tracing; None at all other times."""

    def __init__(self) -> None:
        self.traced = None  # there from the start: code that was compiled without it would be compiled anew with it


@dataclass(frozen=True, eq=False)
class ForwardContext:
    """How one model's forwards run inside a context.

    Attributes:
        complete: every token active, no dispatcher, no noise. Wins over `masks`.
        masks: forced masks, one (B, N) bool tensor per site, or None.
        thresholds: in place of the sites' own, one float32 tensor per site, (B, 1) or () for all images; or None.
        executor: the executor to use, or None for the default (`masked` in train mode, `sparse` in eval mode).
        records: lists that each forward appends its routes to.
        probe: every token active, no dispatcher, and each route's gate a leaf of ones that the features can be
            differentiated by. Wins over `complete` and `masks`.
        keep_tokens: whether recorded routes keep the tokens that entered the branch.
        penalties: lists that each forward appends the loss terms of its reducers to.
        plain: adapters add nothing and reducers reduce nothing: with `complete`, what the backbone computed before.
        shared_prefix: what the passes of one tuning step share; None where each computes everything.
        told: of how many inactive tokens' branches the gate is told by which dispatchers learn: the probability with
            which it is told of each, whose gradient is divided by it. With 1 it is told of all, with 0 of active tokens
            alone; with None there is no gate.
        counting: the head leaves out what is not counted as the model's (`Head.counted`).
        progress: fraction of the training that is done, in [0, 1]; schedules of the spec are read at it.
        groups: of a bank's model, which images are of which tasks (`dyt.bank.shared.Group`).
        generators: those that entered it, which have to be running (`dyt.core.nesting`).
    """

    complete: bool = False
    masks: tuple[Tensor, ...] | None = None
    thresholds: tuple[Tensor, ...] | None = None
    executor: Executor | None = None
    records: tuple[list[Route], ...] = ()
    probe: bool = False
    keep_tokens: bool = False
    penalties: tuple[list[Tensor], ...] = ()
    plain: bool = False
    shared_prefix: SharedPrefix | None = None
    told: float | None = 1.0
    counting: bool = False
    progress: float = 0.0
    groups: tuple[Any, ...] = ()
    generators: tuple[int, ...] = ()

    @property
    def policy(self) -> str:
        """Who decides: `complete`, `forced` or `routed`."""
        return "complete" if self.complete else "routed" if self.masks is None else "forced"


_PLAIN = ForwardContext()
_contexts: ContextVar[Mapping[ModelKey, ForwardContext]] = ContextVar("dyt_contexts", default={})  # noqa: B039 - never changed in place


def current(key: ModelKey) -> ForwardContext:
    """The forward context of the model with this key in the present context.

    Raises:
        ContextError: a generator entered it that is suspended.
    """
    compiling = torch.compiler.is_dynamo_compiling()
    if compiling and key.traced is not None:
        return key.traced
    found = _contexts.get().get(key, _PLAIN)
    if not compiling and found.generators:
        check_running(found.generators)
    return found


@contextmanager
def changed(key: ModelKey, **changes: Any) -> Iterator[ForwardContext]:
    """Changes fields of the model's forward context inside the context; what is not named stays as it is outside.

    Raises:
        ContextError: it is not left as contexts nest (`dyt.core.nesting.nested`).
    """
    now = replace(current(key), **changes)
    if torch.compiler.is_dynamo_compiling():
        outer, key.traced = key.traced, now
        try:
            yield now
        finally:
            key.traced = outer
        return
    now = replace(now, generators=(*now.generators, *resting()))
    before = _contexts.get()
    with nested() as is_open:
        _contexts.set({**before, key: now})
        try:
            yield now
        finally:
            if is_open():
                _contexts.set(before)


def carry_context(function: Callable[P, T]) -> Callable[P, T]:
    """A callable that runs a function under the contexts that are in force here, in whatever thread it is called.

    Threads start without the contexts of the code that gives them work. So what is submitted to an executor of
    `concurrent.futures`, or is a `threading.Thread`'s target, runs as outside of `dyt.record`, `dyt.forced`,
    `dyt.execution` and `dyt.plain`, unless it is carried: `pool.submit(dyt.carry_context(model), images)`. It may be
    called any number of times, by several threads at once, and after the contexts were left; a list of `dyt.record`
    then has the routes in the order in which the forwards ran. All ContextVars are carried, other libraries' too.
    What torch keeps for each thread is not: grad mode, inference mode, autocast.

    Args:
        function: anything callable; its arguments and what it returns or raises are passed on.

    Raises:
        ContextError: a context that a suspended generator entered is in force.
    """
    for key in _contexts.get():
        current(key)
    held = copy_context()
    carried = {key: replace(one, generators=()) for key, one in held.get(_contexts, {}).items()}
    held.run(_contexts.set, carried)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return held.copy().run(function, *args, **kwargs)

    return run
