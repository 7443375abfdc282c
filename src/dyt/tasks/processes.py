"""Loader processes and signals: they neither stop a run in its midst, nor outlive it, nor hang by what a fork left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import TypeVar

T = TypeVar("T")


PATIENCE = 2.0
"""Seconds that a loader process is given to end."""


def started(begin: Callable[[], T]) -> tuple[T, list[BaseProcess]]:
    """What `begin` gives, and the processes that it started. Each of them must call `deaf` first."""
    before = set(multiprocessing.active_children())
    with _held_back(), warnings.catch_warnings():
        # Python 3.12 and later warn of locks that other threads hold; `deaf` is what is done about them
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        begun = begin()
    return begun, [process for process in multiprocessing.active_children() if process not in before]


@contextmanager
def ended(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """Ends the processes when what is inside does not come to its end, and waits for that: torch waits five seconds for
    each."""
    try:
        yield
    except BaseException:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(PATIENCE)
            if process.is_alive():  # in what no signal reaches, such as a read from a dead disk
                process.kill()
        raise


def deaf(worker: int) -> None:
    """Prepares a loader process; torch's `worker_init_fn`.

    Ctrl-C and termination reach the whole process group; the main process alone decides what then happens. Its own
    SIGTERM, which is how Python ends processes that are left over at its exit, is obeyed.
    """
    _fresh_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if hasattr(signal, "sigwaitinfo") and parent is not None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(parent.pid,), daemon=True).start()
    else:  # macOS and Windows do not tell who sent it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _obey(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _fresh_streams() -> None:
    """Streams with locks of their own: a thread that was writing (a progress bar's) holds those of a forked copy for
    good, and a warning, or the flush at the process's end, would wait for them.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is not None:
            stream = open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


@contextmanager
def _held_back() -> Iterator[None]:
    """Processes started inside are born with both signals blocked: between birth and `deaf` they would have the main
    process's handlers, which only note them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
