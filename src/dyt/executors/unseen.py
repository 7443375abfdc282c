"""What torch's dispatcher does not see: an executor that launches kernels of its own says here what they multiply."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[str, int], None]
_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("dyt_unseen", default=())


def unseen(name: str, macs: Callable[[], int]) -> None:
    """To be called beside each launch of a kernel that multiplies.

    Args:
        name: of the kernel.
        macs: the multiply-accumulates of this launch. Called only while somebody counts, so that it may wait for the
            device.
    """
    for watcher in _watchers.get():
        watcher(name, macs())


@contextmanager
def watching_unseen(watcher: Watcher) -> Iterator[None]:
    """Inside, `watcher` is called with the name and the multiply-accumulates of every such launch."""
    token = _watchers.set((*_watchers.get(), watcher))
    try:
        yield
    finally:
        _watchers.reset(token)
