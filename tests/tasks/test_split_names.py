"""Parts of splits have no image in common and are all of it; several are one after the other."""

import pickle
from pathlib import Path

import pytest

from dyt.tasks import DataError, DataSpec, open_data, open_split
from dyt.tasks.kinds import TASKS
from dyt.tasks.layouts import Split
from dyt.tasks.split_names import Piece, composed, pieces

from .test_data import picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 10), ("val", 3), ("test", 2)):
        for i in range(count):
            picture(tmp_path / split / "ab"[i % 2] / f"{i}.png")
    return tmp_path


def test_parts_are_disjoint_and_all_of_it(root: Path) -> None:
    data = open_data(DataSpec(root=str(root), train="train[0-80%]", test="train[80-100%]"))
    whole = open_data(DataSpec(root=str(root))).train
    train, held = set(data.train.paths), set(data.test.paths)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert not train & held
    assert train | held == set(whole.paths)
    assert (data.train.name, data.classes) == ("train[0-80%]", ("a", "b"))
    for split in (data.train, data.test):
        assert list(split.paths) == sorted(split.paths, key=list(whole.paths).index)  # in the order that they have
        assert [path.parent.name for path in split.paths] == ["ab"[label] for label in split.labels]
    order = [int(path.stem) for path in data.test.paths]
    assert order == [1, 3]  # of ten, on every machine


def test_several_are_joined_and_read_from_where_they_are(root: Path) -> None:
    both = open_split(DataSpec(root=str(root)), "train+val[0-67%]", ("a", "b"))
    assert len(both) == len(both.paths) == 10 + 2
    again = pickle.loads(pickle.dumps(both))
    assert again.read(11).size == again.read(0, 3).size == (4, 4)
    numbers = [Split(name, tuple(range(n)), (name + "{}").format) for name, n in (("x", 2), ("y", 3))]
    joined = composed("x+y", pieces("x+y"), {split.name: split for split in numbers}.__getitem__)
    assert [joined.read(i) for i in range(5)] == ["x0", "x1", "y0", "y1", "y2"]
    assert joined.labels == (0, 1, 0, 1, 2)
    assert joined.paths == ()


def test_a_split_of_exactly_that_name_is_meant(root: Path) -> None:
    picture(root / "train+val/a/0.png")
    assert len(open_split(DataSpec(root=str(root)), "train+val", ("a", "b"))) == 1
    assert pieces("a[0-5%]+b") == (Piece("a", 0, 5), Piece("b"))
    assert TASKS["classification"].named(DataSpec(root=str(root)), "test[0-50%]") == ("a", "b")


@pytest.mark.parametrize("name", ["train[80-20%]", "train[0-101%]", "train[:80%]", "train[0-80%", "+val", "[0-50%]"])
def test_what_is_no_part_is_refused_in_one_line(root: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no split '.*write a name, a part of a split as train\[0-80%\], or several"):
        open_data(DataSpec(root=str(root), train=name))


def test_a_part_without_images_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"'val\[0-1%\]' has no image: 'val' has 3"):
        open_data(DataSpec(root=str(root), test="val[0-1%]"))
