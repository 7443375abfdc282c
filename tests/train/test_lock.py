"""One run at a time in a directory; a dead process does not hold it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from dyt.train import RunError, fit
from dyt.train.lock import LOCK, OWNER, LockWarning, held

from .conftest import Runs


def test_a_second_run_is_refused_before_it_changes_anything(runs: Runs, tmp_path: Path) -> None:
    """Also with --fresh, which would remove what the first has."""
    (tmp_path / "metrics.jsonl").write_text("of the first\n")
    with held(tmp_path):
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        for resume in (True, False):
            with pytest.raises(RunError, match=rf"into '.*': process {os.getpid()} on .*, since 20.* UTC; wait"):
                fit(runs(train={"epochs": 1}), tmp_path, progress=False, resume=resume)
        assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    fit(runs(train={"epochs": 1}), tmp_path, progress=False)
    assert not (tmp_path / OWNER).exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the other process is forked")
def test_a_killed_process_leaves_the_directory_free(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        try:
            with held(tmp_path):
                time.sleep(60)
        finally:
            os._exit(1)
    while not (tmp_path / OWNER).exists():
        time.sleep(0.005)
    with pytest.raises(RunError, match=f"process {child} on"), held(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert json.loads((tmp_path / OWNER).read_text())["pid"] == child  # it could not clear up
    with held(tmp_path):
        assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()


def test_what_a_dead_process_started_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader process may hold the lock that it inherited for some seconds more."""
    monkeypatch.setattr("dyt.train.lock.ORPHANS", 0.3)
    with held(tmp_path):
        (tmp_path / OWNER).write_text(json.dumps({"pid": 2**30, "host": os.uname().nodename, "since": "then"}))
        said = "process 1073741824 on .*, which has ended, but a process that it started"
        with pytest.raises(RunError, match=said), held(tmp_path):
            pass
        (tmp_path / OWNER).write_text("{")
        with pytest.raises(RunError, match="a process that has not said which it is yet"), held(tmp_path):
            pass


def test_a_file_system_without_locks_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object, **kwargs: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    with pytest.warns(LockWarning, match="has no locks"), held(tmp_path):
        pass


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot make the run directory"), held(tmp_path / "file" / "out"):
        pass
    with pytest.raises(ZeroDivisionError), held(tmp_path):
        raise ZeroDivisionError  # passed on, and the lock is free again
    with held(tmp_path):
        assert (tmp_path / LOCK).is_file()
