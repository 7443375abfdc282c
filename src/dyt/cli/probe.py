"""Importing plug-ins in a child process first, for commands that list everything: one that hangs or ends the process
there is disabled here, and the listing goes on.

A child is started only where there are plug-ins, and once for all of them; after one that hangs, again for the rest. A
build that asks for a component by its name imports its plug-in in its own process, without a limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from typing import IO

from dyt.entry_points import remedy
from dyt.errors import DyTError, shortened
from dyt.registry import KINDS, Registry

PATIENCE = 30.0
"""Seconds that a plug-in may take to be imported, once the library itself is there."""
STARTING = 300.0
"""Seconds in which a child has imported the library."""
COMMAND = [sys.executable, "-m", "dyt.cli.probe"]
"""The child."""
READY = "ready"


def probe() -> None:
    """Disables the plug-ins that cannot be imported within `PATIENCE`, or that end the process which imports them."""
    left = [(registry, offer) for registry in KINDS.values() for offer in registry.unsettled()]
    while left:
        done, reason = _tried([offer for _, offer in left])
        if reason:
            registry, offer = left[done]
            registry.disable(offer, f"{shortened(offer.value)} {reason}; {remedy(offer)}")
            done += 1
        left = left[done:]


def _tried(offers: Sequence[EntryPoint]) -> tuple[int, str]:
    """(how many were imported, what the one after them did); the reason is empty when all were."""
    asked = {"path": sys.path, "offers": [[offer.name, offer.value, offer.group] for offer in offers]}
    with _child(f"{json.dumps(asked)}\n") as (child, lines):
        if _answer(lines, STARTING) != READY:
            raise DyTError(
                f"plug-ins cannot be tried: a process of {COMMAND[0]}, in which they are imported first, did not "
                f"import dyt within {STARTING:g} s"
            )
        for done in range(len(offers)):
            answer = _answer(lines, PATIENCE)
            if answer is None:
                return done, f"cannot be imported: timed out after {PATIENCE:g} s"
            if answer != str(done):
                return done, f"cannot be imported: it ended its process with code {child.wait()}"
        return len(offers), ""


@contextlib.contextmanager
def _child(asked: str) -> Iterator[tuple[subprocess.Popen[str], queue.SimpleQueue[str]]]:
    """A child that has been asked, and what it answers; it ends with the context."""
    child = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reading = threading.Thread(target=_forwarded, args=(child.stdout, lines), daemon=True)
    reading.start()
    try:
        with contextlib.suppress(BrokenPipeError), child.stdin:  # of a child that has ended, as its answers say
            child.stdin.write(asked)
        yield child, lines
    finally:
        child.kill()
        child.wait()
        reading.join()


def _forwarded(source: IO[str], lines: queue.SimpleQueue[str]) -> None:
    with source:
        for line in source:
            lines.put(line.strip())
    lines.put("")  # the child has ended


def _answer(lines: queue.SimpleQueue[str], patience: float) -> str | None:
    """The child's next line; empty when it has ended, None when it has said nothing for so long."""
    try:
        return lines.get(timeout=patience)
    except queue.Empty:
        return None


def main() -> None:
    """The child: imports what it is asked to, and says the number of each that is done, whether it failed or not."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a plug-in may print
    asked = json.loads(sys.stdin.readline())
    sys.path[:] = asked["path"]
    print(READY, file=answers, flush=True)
    for number, (name, value, group) in enumerate(asked["offers"]):
        with contextlib.suppress(BaseException):  # what it raises is told by the process that lists
            EntryPoint(name, value, group).load()
        print(number, file=answers, flush=True)
    os._exit(0)  # not waiting for what a plug-in may have started


def disabled(registries: Sequence[Registry[object]]) -> list[str]:
    """A line for each plug-in of these registries that is not used."""
    return [str(problem) for registry in registries for problem in registry.problems()]


if __name__ == "__main__":
    main()
