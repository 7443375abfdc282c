"""The benchmarks of banks: one model's tasks three ways, which agree; and a part of `benchmarks/gpu.py`."""

import runpy
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
SMALL = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks" / "bank.py"))


def test_all_ways_agree_and_memory_is_told(
    script: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = script["tasks"]("vit_tiny_patch16_224", 2, 3, torch.device("cpu"), torch.float32, SMALL)
    with torch.no_grad():
        script["timed"](made, Namespace(pairs=1, compile=False), tmp_path)
    script["memory"](made.bank)
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[0].rpartition(": ")[2]) < 1e-5
    assert [line.split("' over '")[1].split("':")[0] for line in lines[1:5]] == [
        "bank, by indices",
        "a model for each task",
        "one model, swapped",
        "one model, each task's file loaded",
    ]
    counts = ["1 tasks", "10 tasks", "100 tasks"]
    expected = ["torch.float32", *counts, "torch.bfloat16", *counts]
    assert [line.split(":")[0].strip() for line in lines[5:]] == expected


def test_logits_that_differ_fail(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    banks = sys.modules["gpu_parts.banks"]
    setting = sys.modules["gpu_parts.setting"].Setting(torch.device("cpu"), True)
    made = script["tasks"]("vit_tiny_patch16_224", 2, 3, torch.device("cpu"), torch.float32, SMALL)
    monkeypatch.setattr(banks, "_made", lambda setting, dtype: made)
    assert set(banks._correct(setting)) == {"names", "indices", "swapped"}
    made.bank.add("task1", made.models["task0"])
    with pytest.raises(AssertionError, match="logits differ"):
        banks._correct(setting)
