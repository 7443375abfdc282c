"""Contexts that are not left as they nest: in another order, in another thread or task, or by a generator that rests.

A forward context belongs to the flow of control that entered it. In these cases it would steer forwards that were never
meant. Python itself notices none of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

from dyt.errors import ContextError

_open: ContextVar[tuple[object, ...]] = ContextVar("dyt_open", default=())
"""The contexts that are entered here, the outermost first."""
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_DRIVERS = ("contextlib", "_pytest", "pytest_asyncio")
"""Modules that suspend a generator between entering and leaving on purpose: as a context manager, or as a fixture."""


@contextmanager
def nested() -> Iterator[Callable[[], bool]]:
    """One context; yields whether it is still open here, which what it restores at its end has to ask.

    Raises:
        ContextError: at its end, where others that were entered inside it are not left yet, where it was left already
            with one around it, or where this is another thread or task than the one that entered it.
    """
    own, before = object(), _open.get()
    token = _open.set((*before, own))
    try:
        yield lambda: own in _open.get()
    finally:
        there = _open.get()
        try:
            _open.reset(token)
        except ValueError:
            raise ContextError(
                "a context (dyt.record, forced, execution or plain) was left in another thread or task than the one "
                "that entered it; leave it where it was entered"
            ) from None
        if there[-1:] != (own,):
            if own not in there:  # gone with one around it; what is open now has nothing to do with it
                _open.set(there)
            raise ContextError(
                "contexts (dyt.record, forced, execution or plain) were left in another order than they nest; leave "
                "the one that was entered last first, as `with` does where no generator is between"
            )


def resting() -> tuple[int, ...]:
    """The generator whose code enters a context, by its frame; none where it is no generator, or one that is driven
    as a context manager.
    """
    here = inspect.currentframe()
    frame: FrameType | None = None if here is None else here.f_back
    while frame is not None:
        outer = frame.f_back
        if not _drives(frame) and not (outer is not None and frame.f_code.co_flags & _GENERATOR and _drives(outer)):
            break
        frame = outer
    return (id(frame),) if frame is not None and frame.f_code.co_flags & _GENERATOR else ()


def check_running(generators: tuple[int, ...]) -> None:
    """Refuses a context that a generator entered which does not run now.

    Raises:
        ContextError: it was suspended at a `yield` inside the context.
    """
    waiting, frame = set(generators), inspect.currentframe()
    while waiting and frame is not None:
        waiting.discard(id(frame))
        frame = frame.f_back
    if waiting:
        raise ContextError(
            "a context (dyt.record, forced, execution or plain) is in force that a suspended generator entered; leave "
            "it before each yield, or enter it around the loop over the generator"
        )


def _drives(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _DRIVERS
