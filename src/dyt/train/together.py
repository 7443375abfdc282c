"""Several processes as one: an error of one is that of all, and one that does not answer is named after a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dyt.core import ranks
from dyt.errors import DyTError
from dyt.train.state import RunError

T = TypeVar("T")


def agreed(act: Callable[[], T]) -> T:
    """What `act` gives on this process; where it raises a DyTError on any, all raise. All must call it.

    Raises:
        DyTError: the process's own.
        RunError: that of another process, where this one had none.
    """
    result: list[T] = []
    own: DyTError | None = None
    try:
        result.append(act())
    except DyTError as error:
        own = error
    others = [text for text in ranks.gathered_objects([None if own is None else str(own)]) if text is not None]
    if own is not None:
        raise own
    if others:
        raise RunError(others[0])
    return result[0]


@contextmanager
def answering(limit: float, kept: Callable[[], str]) -> Iterator[None]:
    """Inside, a process that ended, or has not answered for `limit` seconds, is an error in words.

    Args:
        kept: what is kept of the run, in words.

    Raises:
        RunError: with what to do.
    """
    try:
        yield
    except RuntimeError as error:
        if not (ranks.several() and ranks.unreachable(error)):
            raise
        raise RunError(
            f"another process of the run has ended, or has not answered for {limit:g} s (train.timeout): "
            f"{' '.join(str(error).split())[:120]}; {kept()}; end what is left of the run, and run the same command "
            f"again to go on"
        ) from error
