"""Runs as processes of their own: a failed one does not lose the others, a finished one is not repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from dyt.sweeps.vtab1k import SweepError
from dyt.train.progress import Bar, Signals
from dyt.train.result import Result
from dyt.train.spec import RunSpec
from dyt.train.state import CHECKPOINT, METRICS, MODEL, RESULT, RUN, Interrupted, differences, stored_run

LOG = "log.txt"
POLL = 0.2
"""Seconds between looks at the processes."""
GRACE = 4.0
"""Seconds that processes have to save and stop; what is left is killed, and goes on from its last checkpoint."""
FAILED, INTERRUPTED = 2, 130
"""Exit codes of a task's process."""


@dataclass(frozen=True)
class Job:
    """One task: its name, its run, and its run's directory."""

    name: str
    run: RunSpec
    out: Path


@dataclass(frozen=True)
class Outcome:
    """What came of a job: its result, or why there is none."""

    result: Result | None = None
    error: str | None = None


@dataclass
class _Running:
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    signalled: bool = False
    killed: bool = False


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Holds a sweep's directory against another sweep of the same machine.

    Raises:
        SweepError: one is running in it, or it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SweepError(f"cannot make the directory '{out}': {error.strerror}") from error
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SweepError(f"another sweep is running in '{out}'; wait for its end, or give another --out") from None
    try:
        yield
    finally:
        lock.release()


def sweep(
    jobs: Sequence[Job],
    *,
    parallel: int = 1,
    devices: Sequence[str] = (),
    progress: bool = True,
    what: str = "tasks",
    finished: Callable[[dict[str, Outcome]], None] = lambda outcomes: None,
) -> dict[str, Outcome]:
    """Runs each job that is not finished, `parallel` at a time, each in a process of its own.

    SIGINT (Ctrl-C) and SIGTERM let every process save and stop after its present step; one that has not done so within
    `GRACE` seconds is killed with all of its loader processes. The same sweep again goes on.

    Args:
        devices: of CUDA, one for each process side by side, in turns.
        progress: show a bar on standard error.
        what: the jobs are, for the bar and for what is said.
        finished: called at the start and after each job with all outcomes so far.

    Returns:
        The outcomes by name, in the order of `jobs`.

    Raises:
        SweepError: a directory that has another run; nothing was begun.
        Interrupted: after all have ended.
    """
    done = {job.name: Outcome(Result.read(job.out / RESULT)) for job in jobs if _finished(job)}
    waiting = [job for job in jobs if job.name not in done]
    bar, signals, running, free = Bar(progress), Signals(), list[_Running](), list(range(parallel))
    started: list[_Running] = []
    deadline: float | None = None

    def so_far() -> dict[str, Outcome]:
        return {job.name: done[job.name] for job in jobs if job.name in done}

    finished(so_far())
    with signals.caught(), bar.task(what, len(jobs), len(done)) as shown:
        try:
            while waiting or running:
                while waiting and free and not signals.noted:
                    started.append(_start(waiting.pop(0), free.pop(0), parallel, devices))
                    running.append(started[-1])
                time.sleep(POLL)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    free.insert(0, one.slot)
                    outcome = _ended(one)
                    if outcome is not None:
                        done[one.job.name] = outcome
                        bar.advance(shown)
                        bar.say(f"{one.job.name}: {_said(outcome)}  ({len(done)} of {len(jobs)})")
                        finished(so_far())
                    elif not signals.noted:  # it alone was stopped
                        signals.noted = True
                if signals.noted:
                    waiting = []
                    deadline = deadline or time.monotonic() + GRACE
                    _stop(running, deadline)
                if bar.due():
                    bar.measured(shown, what, ", ".join(_where(one.job) for one in running))
        finally:
            deadline = deadline or time.monotonic() + GRACE
            while any(one.process.poll() is None for one in running):
                _stop(running, deadline)
                time.sleep(POLL)
            for one in running:
                _closed(one)
    if signals.noted and len(done) < len(jobs):
        killed = [one.job.name for one in started if one.killed]
        how = f", but for {', '.join(killed)}, killed after {GRACE:g} s, of which the last checkpoint is kept"
        raise Interrupted(
            f"{len(done)} of {len(jobs)} {what} are finished, the running ones have saved{how if killed else ''}: run "
            f"the same command again to go on"
        )
    return so_far()


def _finished(job: Job) -> bool:
    """Whether the job's directory has its result.

    Raises:
        SweepError: the directory has another run.
    """
    begun = any((job.out / name).exists() for name in (RESULT, MODEL, CHECKPOINT))
    if begun and (job.out / RUN).is_file():
        stored = stored_run(job.out / RUN)
        ours = job.run.model_dump(mode="json")
        if "num_classes" not in job.run.model.head.model_fields_set:  # taken from the data when it was begun
            ours["model"]["head"]["num_classes"] = stored["model"]["head"]["num_classes"]
        differs = differences(stored, ours)
        if differs:
            raise SweepError(f"'{job.out}' has another run: {'; '.join(differs)}; give another --out, or remove it")
    return (job.out / RESULT).is_file()


def _start(job: Job, slot: int, parallel: int, devices: Sequence[str]) -> _Running:
    job.out.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(cores // parallel, 1)))
    log = (job.out / LOG).open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "dyt.sweeps", str(job.out)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        process_group=0,  # Ctrl-C at the terminal is the sweep's alone, and loader processes can be killed with it
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already; its exit code and log say why
        process.stdin.write(json.dumps(job.run.model_dump(mode="json", exclude_unset=True)).encode() + b"\n")
        process.stdin.flush()
    return _Running(job, slot, process, log)


def _ended(one: _Running) -> Outcome | None:
    """What came of it; None when it was interrupted."""
    _closed(one)
    code = one.process.returncode
    if code == 0:
        return Outcome(Result.read(one.job.out / RESULT))
    if one.killed or code in {INTERRUPTED, -signal.SIGINT, -signal.SIGTERM}:
        return None
    said = (one.job.out / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
    return Outcome(error=f"{last} (exit code {code}; {one.job.out / LOG})")


def _closed(one: _Running) -> None:
    one.log.close()
    assert one.process.stdin is not None
    with suppress(BrokenPipeError):  # what it had not read is lost with it
        one.process.stdin.close()


def _stop(running: Sequence[_Running], deadline: float) -> None:
    """Tells each process once to stop; after the deadline kills it with its loader processes."""
    for one in running:
        if one.process.poll() is not None:
            continue
        if time.monotonic() >= deadline:
            one.killed = True
            with suppress(ProcessLookupError, PermissionError):  # it has just ended
                _kill(one.process)
        elif not one.signalled:  # a second signal could end it in the midst of its own clearing up
            one.signalled = True
            one.process.terminate()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _said(outcome: Outcome) -> str:
    result = outcome.result
    if result is None:
        return f"FAILED: {outcome.error}"
    return f"{result.test.accuracy:.1%}, active {result.test.active_rate:.2f}, {result.seconds / 60:.1f} min"


def _where(job: Job) -> str:
    file = job.out / METRICS
    epochs = file.read_text(encoding="utf-8").count("\n") if file.is_file() else 0
    return f"{job.name} {epochs}/{job.run.train.epochs}"
