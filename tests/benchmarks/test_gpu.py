"""`benchmarks/gpu.py`: its file and its points with stand-ins; its CPU mode whole with --full."""

import json
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return runpy.run_path(str(SCRIPT))


def test_points_are_kept_failures_are_lines_and_are_tried_again(
    script: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, calls = tmp_path / "gpu.jsonl", []

    def measured(name: str, fails: bool) -> str:
        calls.append(name)
        if fails:
            raise ValueError(f"{name} went wrong")
        return name

    def points(setting: Any) -> Any:
        broken = calls.count("b") == 0
        for name, fails, seconds in (("a", False, 1), ("b", broken, 1), ("c", False, 1), ("long", False, 1e6)):
            yield script["Point"](name, partial(measured, name, fails), seconds)

    script["PARTS"]["device"] = points
    command = [str(file), "--device", "cpu", "--small", "--parts", "device"]
    monkeypatch.setitem(script["report"].__globals__, "tables", lambda results: iter(()))
    assert script["main"](command) == 1
    assert calls == ["a", "b", "c"]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["key"], line["error"]) for line in lines] == [
        ("device: a", ""),
        ("device: b", "ValueError: b went wrong"),
        ("device: c", ""),
    ]
    assert "device: long: left for another run, of about 1000000 s" in capsys.readouterr().out
    with file.open("a") as out:
        out.write('{"key": "device: d", "resu')  # interrupted
    assert script["main"]([*command, "--only", "device: c", "long"]) == 1
    assert calls == ["a", "b", "c"], "what is not named is not tried again"
    assert script["main"]([*command]) == 0
    assert calls == ["a", "b", "c", "b"]
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_a_check_that_does_not_hold_fails(script: dict[str, Any]) -> None:
    require = sys.modules["gpu_parts.setting"].require
    require(True, "")
    with pytest.raises(AssertionError, match="too far apart"):
        require(False, "too far apart")


def test_tables_have_a_row_for_each_rate(script: dict[str, Any]) -> None:
    speedup = {"median": 1.25, "low": 1.2, "high": 1.3, "coverage": 0.98, "pairs": 11}
    row = {"form": "kernels", "active": 0.5, "ms": 2.0, "speedup": speedup, "promised": 1.5, "share": 0.5}
    lines = list(script["tables"]({"speed: ViT-B": {"dense ms": 2.5, "rows": [row]}}))
    bank = {"ms": {"swapped": 4.0}, "speedup": {"swapped": speedup}}
    assert list(script["tables"]({"bank: eager": bank}))[-1] == "| eager | swapped | 4.00 | 1.25 [1.20, 1.30] |"
    step = {"ms": 80.0, "of static": speedup, "MiB": 5000.0, "MiB of static": 1.5}
    rows = list(script["tables"]({"train: ViT-B": {"budgets": step}}))
    assert rows[2] == "| ViT-B | budgets | 80.0 | 1.25 [1.20, 1.30] | 5000 | 1.50 |"
    assert lines[2] == "| ViT-B | 2.500 | kernels | 0.50 | 2.000 | 1.25 [1.20, 1.30] | 1.50 | 50% |"


def test_the_whole_of_it_runs_on_a_cpu(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("full"):
        pytest.skip("--full")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "gpu.jsonl"), "--device", "cpu", "--small"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Checks: 6 of 6 passed." in done.stdout
