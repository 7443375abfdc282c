"""`dyt eval` on the same images under lists with the same classes in another order, and on lists without names."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands import APP, said
from dyt.tasks.layouts import DataError
from dyt.train import fit

from .conftest import Runs


def lists(root: Path, images: Path, order: tuple[str, ...], named: bool = True) -> Path:
    """Lists of the images in class folders, their labels in this order."""
    root.mkdir()
    for ours, theirs in (("train800val200", "train"), ("test", "test")):
        paths = sorted((images / theirs).rglob("*.png"))
        (root / f"{ours}.txt").write_text("".join(f"{path} {order.index(path.parent.name)}\n" for path in paths))
    if named:
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in order))
    return root


def test_the_order_of_the_classes_does_not_matter(runs: Runs, images: Path, tmp_path: Path) -> None:
    one = lists(tmp_path / "one", images, ("blue", "green", "red"))
    fit(runs(data={"root": str(one)}, train={"epochs": 4}), tmp_path / "run", progress=False)
    file = str(tmp_path / "run" / "model.safetensors")
    report = json.loads(said("eval", file, "--json"))
    assert report["accuracy"] > 0.6  # so that another order would show
    other = lists(tmp_path / "other", images, ("red", "blue", "green"))
    for data in (other, images):  # lists in another order, and class folders
        assert json.loads(said("eval", file, "--data", str(data), "--json")) == report
    strange = lists(tmp_path / "strange", images, ("blue", "green", "red"))
    (strange / "classes.txt").write_text("blue\ngreen\nrose\n")
    with pytest.raises(DataError, match=r"\(rose\).*1 are not there \(red\)"):
        said("eval", file, "--data", str(strange), "--json")
    bare = lists(tmp_path / "bare", images, ("blue", "green", "red"), named=False)
    done = CliRunner().invoke(APP, ["eval", file, "--data", str(bare), "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == report
    assert "the data does not name its classes: label k is the model's class k" in done.stderr
