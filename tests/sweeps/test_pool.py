"""Real processes on tiny tasks: side by side, a failed one, finished ones, and stopping, with and without patience."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dyt.sweeps import Job, Outcome, SweepError, sweep
from dyt.sweeps.pool import alone
from dyt.train import Interrupted, RunSpec

from .conftest import ARGS, NAME

HANGING = 600
"""Seconds after which a test takes what it waits for as hanging."""


def until(there: Callable[[], Any], process: subprocess.Popen[Any] | None = None) -> None:
    end = time.monotonic() + HANGING
    while not there():
        assert time.monotonic() < end
        assert process is None or process.poll() is None
        time.sleep(0.01)


def jobs(run: RunSpec, root: Path, out: Path, **train: Any) -> list[Job]:
    changed = run.model_copy(update={"train": run.train.model_copy(update=train)})
    return [
        Job(
            name,
            changed.model_copy(update={"data": changed.data.model_copy(update={"root": str(root / name)})}),
            out / name,
        )
        for name in ("caltech101", "ours")
    ]


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path / "out"):
        with pytest.raises(SweepError, match="another sweep is running in"), alone(tmp_path / "out"):
            pass
        with alone(tmp_path / "other"):
            pass
    with alone(tmp_path / "out"):
        pass


def test_a_failed_task_does_not_lose_the_other(
    run: RunSpec, root: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """And once its data is mended, it alone is run."""
    if not request.config.getoption("--full"):
        pytest.skip("four processes, and test_command has a failed task too; use --full")
    damaged = root / "caltech101/images/train800val2000.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:20])
    seen: list[list[str]] = []
    each = jobs(run, root, tmp_path / "out")
    found = sweep(each, parallel=2, progress=False, finished=lambda so_far: seen.append(sorted(so_far)))
    assert list(found) == ["caltech101", "ours"]
    assert found["caltech101"].result is None
    assert "train800val2000.png: cannot be read" in str(found["caltech101"].error)
    assert found["ours"].result is not None
    assert seen[0] == []
    assert seen[-1] == ["caltech101", "ours"]
    result = tmp_path / "out/ours/result.json"
    before = result.stat().st_mtime_ns
    damaged.write_bytes(whole)
    again = sweep(each, progress=False)
    assert again["caltech101"].error is None
    assert again["ours"] == found["ours"]
    assert result.stat().st_mtime_ns == before
    with pytest.raises(SweepError, match=r"has another run: train\.epochs was 2, is 3"):
        sweep(jobs(run, root, tmp_path / "out", epochs=3), progress=False)


def test_stopping_saves_and_goes_on(run: RunSpec, root: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A signal once the first epoch is over; then to the end, which is that of an uninterrupted run."""
    if not request.config.getoption("--full"):
        pytest.skip("three processes; `.ci/run` has them, use --full")
    each = jobs(run, root, tmp_path / "out", epochs=200)[:1]
    rows = tmp_path / "out/caltech101/metrics.jsonl"

    def stop_when_begun() -> None:
        while not rows.is_file() or not rows.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop_when_begun, daemon=True).start()
    with pytest.raises(Interrupted, match="0 of 1 tasks are finished"):
        sweep(each, progress=False)
    assert (tmp_path / "out/caltech101/resume.safetensors").is_file()
    assert not (tmp_path / "out/caltech101/result.json").exists()
    assert "saved in" in (tmp_path / "out/caltech101/log.txt").read_text()
    found = sweep(each, progress=False)["caltech101"]
    assert isinstance(found, Outcome)
    assert found.result is not None
    assert found.result.epochs == 200
    assert len(rows.read_text().splitlines()) == 200


def test_a_worker_does_not_outlive_its_sweep(run: RunSpec, root: Path, tmp_path: Path) -> None:
    """The end of its standard input, which is all that it learns of a killed sweep, stops it after a checkpoint."""
    read = run.data.model_copy(update={"cache": False, "workers": 2})  # forks while standard input is waited for
    job = jobs(run.model_copy(update={"data": read}), root, tmp_path / "out", epochs=5000)[0]
    command = [sys.executable, "-m", "dyt.sweeps", str(job.out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
        assert worker.stdin is not None
        worker.stdin.write(job.run.model_dump_json(exclude_unset=True) + "\n")
        worker.stdin.flush()
        rows = job.out / "metrics.jsonl"
        until(lambda: rows.is_file() and rows.read_text(), worker)
        worker.stdin.close()
        assert worker.wait(HANGING) == 130
    assert (job.out / "resume.safetensors").is_file()


def test_each_process_has_its_device(run: RunSpec, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    plain = subprocess.Popen

    def watched(command: Any, **options: Any) -> Any:
        given.append(options["env"]["CUDA_VISIBLE_DEVICES"])
        return plain([sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit('no such thing')"], **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    found = sweep(jobs(run, root, tmp_path / "out"), parallel=2, devices=["3", "5"], progress=False)
    assert given == ["3", "5"]
    assert all("no such thing (exit code 1" in str(outcome.error) for outcome in found.values())


DEAF = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.stdin.readline()
loader = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(str(loader.pid))
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_does_not_stop_is_killed_with_its_loader_processes(
    run: RunSpec, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    file = tmp_path / "loader"
    plain = subprocess.Popen
    given: list[subprocess.Popen[bytes]] = []

    def deaf(command: Any, **options: Any) -> Any:
        given.append(plain([sys.executable, "-c", DEAF, str(file)], **options))
        return given[-1]

    def stop_when_begun() -> None:
        until(lambda: file.is_file() and file.read_text())
        os.kill(os.getpid(), number)

    monkeypatch.setattr(subprocess, "Popen", deaf)
    monkeypatch.setattr("dyt.sweeps.pool.GRACE", 0.5)
    threading.Thread(target=stop_when_begun, daemon=True).start()
    with pytest.raises(Interrupted, match=r"but for caltech101, killed after 0\.5 s.*run the same command again"):
        sweep(jobs(run, root, tmp_path / "out")[:1], progress=False)
    assert given[0].returncode == -signal.SIGKILL
    until(lambda: gone(int(file.read_text())))


def gone(pid: int) -> bool:
    """Also of one that has ended and that nobody has asked for its exit code."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_whole_tree(
    run: RunSpec, root: Path, weights: Path, tmp_path: Path, request: pytest.FixtureRequest, number: int
) -> None:
    """The sweep, its tasks' processes and their loader processes, as a terminal or a scheduler sends it."""
    if not request.config.getoption("--full"):
        pytest.skip("four processes, twice; `.ci/run` has them, use --full")
    out = tmp_path / "out"
    changes = [f"model.backbone.args={ARGS}", "train.batch_size=8", "train.epochs=5000", "data.workers=2"]
    options = ["--root", str(root), "--out", str(out), "--backbone", NAME, "--weights", str(weights)]
    changes += ["data.cache=false"]
    options += ["--task", "caltech101", *(w for c in changes for w in ("--set", c))]
    command = [sys.executable, "-c", "from dyt.cli.main import main; main()", "sweep", "vtab1k", *options]
    rows = out / "caltech101" / "metrics.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        until(lambda: rows.is_file() and rows.read_text(), process)
        tree: list[psutil.Process] = []

        def grown() -> bool:
            tree[:] = psutil.Process(process.pid).children(recursive=True)
            return len(tree) >= 1 + 2

        until(grown, process)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        said = process.stderr.read()
        assert process.wait(HANGING) == 130
    assert "0 of 1 tasks are finished" in said
    until(lambda: all(gone(one.pid) for one in tree))
    assert (rows.parent / "resume.safetensors").is_file()
