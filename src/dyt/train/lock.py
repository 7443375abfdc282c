"""One run at a time in a directory: a lock that ends with its process, and says whose it is."""

from __future__ import annotations

import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from dyt.train.state import RunError, write_whole

LOCK, OWNER = ".run.lock", ".run.owner.json"
ORPHANS = 10.0
"""Seconds to wait for loader processes of a run that was killed, which may have inherited its lock: torch ends them
within five."""


class LockWarning(UserWarning):
    """The directory of a run cannot be locked."""


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Holds the directory of a run against other runs, also of this process. The system frees it with the process.

    Raises:
        RunError: another run has it, with its process, host and when it began; or it cannot be made. Nothing was
            changed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        _acquire(lock, out)
    except NotImplementedError:
        text = f"the file system of '{out}' has no locks: see to it yourself that no second run writes into it"
        warnings.warn(text, LockWarning, stacklevel=2)
        yield
        return
    except OSError as error:  # a Timeout is answered in _acquire
        raise RunError(f"cannot make the run directory '{out}': {error.strerror or error}") from error
    try:
        write_whole(out / OWNER, json.dumps(_self()) + "\n")
        yield
    finally:
        (out / OWNER).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, out: Path) -> None:
    until = time.monotonic() + ORPHANS
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            owner, ended = _owner(out)
            if not ended or time.monotonic() > until:
                also = ", which has ended, but a process that it started still runs" if ended else ""
                raise RunError(
                    f"another run is writing into '{out}': {owner}{also}; wait for its end or stop it, or give "
                    f"another --out"
                ) from None
        time.sleep(0.2)


def _self() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    }


def _owner(out: Path) -> tuple[str, bool]:
    """The run that holds the lock, in words, and whether its process is known to have ended."""
    try:
        found = json.loads((out / OWNER).read_text(encoding="utf-8"))
        pid, host, since = int(found["pid"]), str(found["host"])[:80], str(found["since"])[:40]
    except (OSError, ValueError, KeyError, TypeError):  # it has this moment begun, or is about to end
        return "a process that has not said which it is yet", False
    return f"process {pid} on {host}, since {since}", host == socket.gethostname() and not _alive(pid)


def _alive(pid: int) -> bool:
    if os.name == "nt":  # there a signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
