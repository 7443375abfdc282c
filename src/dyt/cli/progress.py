"""A progress bar on standard error, so that standard output stays the answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def rounds(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar inside the context; yields a function that takes the number of rounds done so far."""
    with Progress(console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
