"""The demo end to end, one epoch, on a few of the digits."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dyt
import dyt.demo.run as demo
from dyt.demo.digits import TRAIN, load_digits, write_digits

ABSENT = ("scipy", "sklearn", "scikit_learn")
"""What `pip install -e .` does not bring, as its folders are called; the tests' environment has it."""


def test_digits_are_the_fixed_split(tmp_path):
    root = write_digits(tmp_path)
    assert len(list((root / "train").rglob("*.png"))) == 1000
    assert len(list((root / "test").rglob("*.png"))) == 797
    assert sorted(p.name for p in (root / "train").iterdir()) == [str(i) for i in range(10)]


def test_digits_are_those_of_scikit_learn():
    pytest.importorskip("sklearn", reason="a development tool")
    from sklearn.datasets import load_digits as published
    from sklearn.model_selection import train_test_split

    ours, theirs = load_digits(), published()
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.target)
    train, _ = train_test_split(np.arange(1797), train_size=TRAIN, random_state=0, stratify=theirs.target)
    np.testing.assert_array_equal(np.flatnonzero(ours.train), np.sort(train))


def installed_without(folder: Path) -> str:
    """A search path of everything that is installed but those: neither they nor their metadata can be found."""
    for directory in (Path(entry) for entry in sys.path if Path(entry).name in {"site-packages", "dist-packages"}):
        for path in directory.iterdir():
            if not path.name.startswith(ABSENT) and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return os.pathsep.join([str(folder), str(Path(dyt.__file__).parents[1])])


def test_the_demo_needs_neither_scipy_nor_scikit_learn(tmp_path):
    """As far as its data and everything that the command imports; the test below runs all of it."""
    (tmp_path / "installed").mkdir()
    path = installed_without(tmp_path / "installed")
    code = (
        "import importlib.util; from pathlib import Path; import dyt.cli.main, dyt.cli.demo, dyt.demo\n"
        "from dyt.demo.digits import write_digits; from dyt.tasks import DataSpec, open_data\n"
        f"print(len(open_data(DataSpec(root=str(write_digits(Path({str(tmp_path / 'digits')!r}))))).train))\n"
        "print(importlib.util.find_spec('scipy'), importlib.util.find_spec('sklearn'))"
    )
    # -S: without the site-packages of this interpreter
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.stdout.split() == ["1000", "None", "None"], done.stderr


def some_digits(root: Path) -> Path:
    write_digits(root)
    for split in ("train", "test"):
        for folder in (root / split).iterdir():
            for path in sorted(folder.iterdir())[8:]:
                path.unlink()
    return root


def test_demo_compares_three_ways(tmp_path, monkeypatch):
    for name in {*ABSENT, *(name for name in sys.modules if name.partition(".")[0] in ABSENT)}:
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails
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
