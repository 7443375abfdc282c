"""Real processes on tiny tasks: side by side, a failed one, finished ones, and stopping between two steps."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dyt.sweeps import Job, Outcome, SweepError, sweep
from dyt.sweeps.pool import alone
from dyt.train import Interrupted, RunSpec


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
    assert (tmp_path / "out/caltech101/resume.pt").is_file()
    assert not (tmp_path / "out/caltech101/result.json").exists()
    assert "saved in" in (tmp_path / "out/caltech101/log.txt").read_text()
    found = sweep(each, progress=False)["caltech101"]
    assert isinstance(found, Outcome)
    assert found.result is not None
    assert found.result.epochs == 200
    assert len(rows.read_text().splitlines()) == 200


def test_a_worker_does_not_outlive_its_sweep(run: RunSpec, root: Path, tmp_path: Path) -> None:
    """The end of its standard input, which is all that it learns of a killed sweep, stops it after a checkpoint."""
    job = jobs(run, root, tmp_path / "out", epochs=5000)[0]
    command = [sys.executable, "-m", "dyt.sweeps", str(job.out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
        assert worker.stdin is not None
        worker.stdin.write(job.run.model_dump_json(exclude_unset=True) + "\n")
        worker.stdin.flush()
        rows = job.out / "metrics.jsonl"
        while not rows.is_file() or not rows.read_text():
            assert worker.poll() is None
            time.sleep(0.01)
        worker.stdin.close()
        assert worker.wait(60) == 130
    assert (job.out / "resume.pt").is_file()


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
