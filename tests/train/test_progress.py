"""Bars on a terminal, a line per epoch elsewhere, silence where none is wanted; signals."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from dyt.train import fit
from dyt.train.progress import Bar, Signals

from .conftest import Runs


def test_a_terminal_sees_bars(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dyt.train.progress.Console", partial(Console, force_terminal=True, width=200))
    fit(runs(train={"calibrate": True, "eval_every": 1}), tmp_path)
    shown = capsys.readouterr().err
    for word in ("reading train", "training", "epoch 1/2", "calibrating", "evaluating test", "images/s", "left"):
        assert word in shown


def test_elsewhere_a_line_per_epoch_and_nothing_when_unwanted(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(runs(), tmp_path / "a")
    assert [line.split("  ")[0] for line in capsys.readouterr().err.splitlines() if line.strip()] == [
        "epoch 1/2",
        "epoch 2/2",
    ]
    fit(runs(), tmp_path / "b", progress=False)
    assert capsys.readouterr().err == ""


def test_an_exception_ends_the_bar() -> None:
    bar = Bar(shown=False)
    with pytest.raises(KeyError), bar.task("outer", 2), bar.task("inner", 1):
        raise KeyError
    with bar.task("again", 1) as task:
        bar.advance(task)


def test_the_second_interrupt_stops_at_once() -> None:
    signals = Signals()
    with signals.caught():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.noted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_ends_a_wait_and_is_only_noted_elsewhere() -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    def items(signalling: bool) -> Iterator[int]:
        yield 1
        if signalling:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the wait went on")

    signals = Signals()
    with signals.caught():
        assert list(signals.awaited(items(False), stop)) == [1]
        waited = signals.awaited(items(True), stop)
        assert next(waited) == 1
        with pytest.raises(StopError):
            next(waited)
        assert signals.noted
        os.kill(os.getpid(), signal.SIGTERM)  # again, while what is to be saved is being saved
        with pytest.raises(StopError):
            next(signals.awaited(items(False), stop))
