"""Several processes as one: an error of one is that of all; one that is stopped is named after a time."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dyt.config.files import dump_yaml
from dyt.errors import DyTError, SpecError
from dyt.testing.cases import tiny
from dyt.train import RunError, start_routers
from dyt.train.finite import LossCheck
from dyt.train.together import agreed, answering
from ranks import on_ranks

from .conftest import Runs
from .test_ddp import SCRIPT


def test_an_error_of_one_is_raised_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(rank: int) -> str:
        def act() -> int:
            if rank == 1:
                raise SpecError("it is wrong")
            return rank

        try:
            return str(agreed(act))
        except DyTError as error:
            return f"{type(error).__name__}: {error}"

    assert on_ranks(3, run, monkeypatch) == ["RunError: it is wrong", "SpecError: it is wrong", "RunError: it is wrong"]
    assert on_ranks(2, lambda rank: agreed(lambda: rank), monkeypatch) == [0, 1]
    with pytest.raises(SpecError):
        agreed(lambda: (_ for _ in ()).throw(SpecError("alone")))


def test_a_loss_of_one_is_found_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Known:
        length = type("Length", (), {"steps": 9, "per_epoch": 3})

        def kept(self) -> str:
            return "kept"

        remedy = kept

    def run(rank: int) -> list[object]:
        check = LossCheck(torch.device("cpu"), 2, Known())  # type: ignore[arg-type]
        said: list[object] = []
        for step, loss in enumerate((1.0, 1.0, float("nan")), 1):
            check.add(torch.tensor(loss if rank else 1.0), step)
            try:
                said.append(check.stops(step, noted=step == 2 and not rank, read=False))
            except RunError as error:
                said.append(str(error))
        return said

    said = "the loss is not finite at step 3 of 9 (epoch 1); kept; kept"
    assert on_ranks(2, run, monkeypatch) == [[False, True, said]] * 2


def test_routers_start_as_on_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    images = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    model = tiny(adapter={"type": "none"}, head={"num_classes": 5})
    models = [copy.deepcopy(model) for _ in range(3)]

    def run(rank: int) -> list[list[float]]:
        start_routers(models[rank], images, 0.45, alike=True)
        sites = models[rank].sites
        return [t.flatten().tolist() for site in sites for t in (*site.dispatcher.parameters(), site.threshold)]

    one = run(2)
    assert all(map(any, one))
    assert on_ranks(2, run, monkeypatch) == [one, one]


def test_only_errors_of_other_processes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(rank: int) -> list[str]:
        said = []
        for text in ("[x/gloo/transport/tcp/y.cc:78] Timed out waiting 2000ms", "a shape that does not fit"):
            try:
                with answering(2, lambda: "the state after step 3 is kept"):
                    raise RuntimeError(text)
            except (RunError, RuntimeError) as error:
                said.append(f"{type(error).__name__}: {error}")
        return said

    (named, other), _ = on_ranks(2, run, monkeypatch)
    assert re.match(r"RunError: another process .* not answered for 2 s \(train\.timeout\).*step 3 is kept; end", named)
    assert other == "RuntimeError: a shape that does not fit"
    with pytest.raises(RuntimeError, match="gloo"), answering(2, lambda: ""):
        raise RuntimeError("gloo of a process that is alone")


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a signal that stops a process")
def test_a_stopped_process_is_named(runs: Runs, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("two more processes; use --full")
    run = runs(train={"epochs": 400, "timeout": 3.0})
    (tmp_path / "given.yaml").write_text(dump_yaml(run.model_dump(mode="json", exclude_unset=True)))
    (tmp_path / "go.py").write_text(SCRIPT)
    given = [sys.executable, str(tmp_path / "go.py"), str(tmp_path / "given.yaml"), str(tmp_path / "two")]
    where = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29731"}
    processes = [
        subprocess.Popen(
            given,
            env={**where, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        metrics = tmp_path / "two" / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text().count("\n") > 2):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.1)
        processes[1].send_signal(signal.SIGSTOP)
        _, said = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[0].returncode == 1
    assert re.search(r"RunError: another process of the run .* 3 s \(train\.timeout\).* is kept in '.*resume", said)
    assert json.loads(metrics.read_text().splitlines()[-1])["epoch"] < 400
