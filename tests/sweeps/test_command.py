"""`dyt sweep vtab1k` from the command line to its table."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dyt.cli.main import app

from .conftest import ARGS, NAME

HANGING = 600
"""Seconds."""


def said(root: Path, out: Path, weights: Path, *more: str) -> Result:
    """With as many loader processes as there are without a word; one that hangs is ended as a user would end it."""
    changes = [f"model.backbone.args={json.dumps(ARGS)}", "train.batch_size=8", "train.epochs=1"]
    options = ["--root", str(root), "--out", str(out), "--backbone", NAME, "--weights", str(weights), *more]
    impatient = threading.Timer(HANGING, os.kill, (os.getpid(), signal.SIGTERM))
    impatient.start()
    try:
        return CliRunner().invoke(app, ["sweep", "vtab1k", *options, *(w for c in changes for w in ("--set", c))])
    finally:
        impatient.cancel()


def test_a_sweep_and_its_failure(root: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (root / "caltech101/images/test0.png").write_bytes(b"")
    first = said(root, out, weights, "--task", "caltech101", "--task", "ours")
    assert first.exit_code == 1, first.output
    assert "caltech101 failed" in first.stderr
    assert "test0.png: an empty file" in first.stderr
    rows = {row["name"]: row for row in json.loads((out / "results.json").read_text())["rows"]}
    assert rows["ours"]["status"] == "finished"
    assert rows["caltech101"]["paper"] == pytest.approx(0.948)
    assert (out / "results.md").is_file()
    assert (out / "results.csv").is_file()


def test_refusals_are_one_line(root: Path, weights: Path, tmp_path: Path) -> None:
    for more, message in (
        (("--all",), "lacks 17 of 19 tasks"),
        (("--beside", "dyt"), "table 3 has no row 'dyt'"),
        (("--task", "none"), "no task 'none'"),
    ):
        answer = said(root, tmp_path / "out", weights, *more)
        assert answer.exit_code == 2
        assert message in answer.stderr
        assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
