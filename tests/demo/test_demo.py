"""The demo end to end, one epoch, on a few of the digits."""

from pathlib import Path

import pytest
from PIL import Image

import dyt.demo.run as demo
from dyt.demo.digits import write_digits


def test_digits_are_the_fixed_split(tmp_path):
    root = write_digits(tmp_path)
    assert len(list((root / "train").rglob("*.png"))) == 1000
    assert len(list((root / "test").rglob("*.png"))) == 797
    assert sorted(p.name for p in (root / "train").iterdir()) == [str(i) for i in range(10)]


def some_digits(root: Path) -> Path:
    write_digits(root)
    for split in ("train", "test"):
        for folder in (root / split).iterdir():
            for path in sorted(folder.iterdir())[8:]:
                path.unlink()
    return root


def test_demo_compares_three_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SPEED_BATCH", {True: 4, False: 4})
    monkeypatch.setattr(demo, "write_digits", some_digits)
    said: list[str] = []
    found = demo.run_demo(tmp_path, epochs=3, progress=False, say=said.append)
    assert list(found.results) == ["linear probe", "static adapter", "DyT"]
    assert found.results["linear probe"].trainable == 96 * 10 + 10
    assert found.results["static adapter"].test.active_rate == 1
    assert found.results["DyT"].test.active_rate == pytest.approx(
        0.5, abs=0.1
    )  # the asked rate is reached by 40 % of a run
    assert found.table().row_count == 3
    with Image.open(found.picture) as picture:
        assert picture.width > 400
    assert sum("accuracy" in line for line in said) == 3
