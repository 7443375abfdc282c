"""What is chosen by is never of the test split, and never trained on."""

from pathlib import Path

import pytest
from PIL import Image

from dyt.sweeps import Splits, SweepError, splits_of
from dyt.tasks import DataSpec
from dyt.tasks.kinds import TASKS

from .conftest import lists


def folders(root: Path, *splits: str) -> Path:
    for split in splits:
        for i in range(10):
            path = root / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    return root


def of(root: Path, validation: str | None = None, **fields: str) -> Splits:
    return splits_of(DataSpec(root=str(root), **fields), validation)  # type: ignore[arg-type]


def test_the_lists_of_vtab(tmp_path: Path) -> None:
    root = lists(tmp_path / "task")
    drawn = Splits("train800val200[0-80%]", "train800val200[80-100%]", "train800val200", "test")
    assert of(root) == drawn
    rows = (root / "train800val200.txt").read_text().splitlines()
    (root / "train800.txt").write_text("\n".join(rows[:12]))
    assert of(root) == drawn
    (root / "val200.txt").write_text("\n".join(rows[12:]))
    assert of(root) == of(root, "val200") == Splits("train800", "val200", "train800val200", "test")
    assert of(root, train="train800").validation == "train800[80-100%]"
    (root / "val200.txt").write_text("\n".join(rows[11:]))
    with pytest.raises(SweepError, match=r"images of 'train800' are in 'val200' as well \(train800val20011.png\)"):
        of(root)
    (root / "val200.txt").write_text((root / "test.txt").read_text())
    with pytest.raises(SweepError, match="images of 'val200' are in 'test' as well"):
        of(root)


def test_class_folders(tmp_path: Path) -> None:
    root = folders(tmp_path, "train", "test")
    assert of(root) == Splits("train[0-80%]", "train[80-100%]", "train", "test")
    folders(root, "val")
    assert of(root) == Splits("train", "val", "train+val", "test")
    assert of(root, test="val").validation == "train[80-100%]"  # tested on it: not chosen by it
    (root / "test").rename(root / "held")
    assert of(root) == Splits("train[0-80%]", "train[80-100%]", "train", "val")
    assert of(root, "held") == Splits("train", "held", "train+held", "val")


def test_parts_are_divided_again(tmp_path: Path) -> None:
    root = folders(tmp_path, "train", "more")
    found = of(root, train="train[0-50%]+more", test="train[50-100%]")
    assert (found.train, found.validation) == ("train[0-40%]+more[0-80%]", "train[40-50%]+more[80-100%]")


def test_the_test_split_is_refused(tmp_path: Path) -> None:
    root = folders(tmp_path, "train", "test")
    for name in ("test", "test[0-10%]", "train+test"):
        with pytest.raises(SweepError, match=r"is of the test split 'test', by which nothing may be chosen") as refused:
            of(root, name)
        assert "\n" not in str(refused.value)
    with pytest.raises(SweepError, match=r"images of 'train' are in 'train\[0-20%\]' as well"):
        of(root, "train[0-20%]")
    with pytest.raises(SweepError, match="is of the test split 'train'"):
        of(root, test="train")


def test_data_without_accuracy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"which classification with data\.labels: several does not have"):
        of(tmp_path, labels="several")
    with pytest.raises(SweepError, match="which video does not have; use data of classification"):
        splits_of(TASKS["video"].Spec(root=str(tmp_path)))
