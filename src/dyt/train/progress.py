"""The progress bar, and the signals that stop a run between two steps."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


class Bar:
    """Bars on a terminal: what is done, how far, what is measured, how long it will take. Silent where it is not shown.

    Args:
        shown: False for all processes but the main one, and where the user wants none.
    """

    def __init__(self, shown: bool) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[measured]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        console = Console(file=sys.stderr)
        self._shown, self._depth = shown, 0
        self._progress = Progress(*columns, console=console, disable=not (shown and console.is_terminal))
        self._refreshed = 0.0

    @contextmanager
    def task(self, what: str, total: int | None, done: int = 0) -> Iterator[TaskID]:
        """Shows a bar inside; one begun inside another stands below it."""
        self._progress.start()
        self._depth += 1
        task = self._progress.add_task(what, total=total, completed=done, measured="")
        try:
            yield task
        finally:
            self._progress.remove_task(task)
            self._depth -= 1
            if self._depth == 0 and not self._progress.disable:  # older versions of rich print an empty line then
                self._progress.stop()

    def advance(self, task: TaskID, by: int = 1) -> None:
        """Moves the bar on."""
        self._progress.advance(task, by)

    def due(self) -> bool:
        """Whether to measure again: at most once a second, since reading a number off an accelerator waits for it."""
        now = time.monotonic()
        if not self._shown or now - self._refreshed < 1:
            return False
        self._refreshed = now
        return True

    def say(self, line: str) -> None:
        """Prints a line that stays, above the bar; all that is shown where standard error is no terminal."""
        if self._shown:
            self._progress.console.print(line, highlight=False, markup=False)

    def measured(self, task: TaskID, what: str, text: str) -> None:
        """Changes what stands beside the bar."""
        self._progress.update(task, description=what, measured=text)


class _Stopped(BaseException):
    """A signal came in a wait."""


class Signals:
    """SIGINT and SIGTERM noted inside `caught`, to be asked for between two steps; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.noted, self._waiting = False, False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Takes the two signals inside; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def awaited(self, items: Generator[T], stop: Callable[[], None]) -> Generator[T]:
        """The items; a signal ends the wait for one, which may be for a loader process that hangs in what it reads.

        Args:
            items: are closed when this is, or when a signal ends it: loader processes end then, and not whenever what
                holds them is collected.
            stop: is then called, and raises what ends the run.
        """
        with closing(items):
            while True:
                try:
                    self._waiting = not self.noted
                    if self.noted:
                        raise _Stopped
                    item = next(items)
                except StopIteration:
                    return
                except _Stopped:
                    items.close()
                    stop()
                    raise
                finally:
                    self._waiting = False
                yield item

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = True
        if self._waiting:
            self._waiting = False
            raise _Stopped
