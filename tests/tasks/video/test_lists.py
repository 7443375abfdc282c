"""List files as published, and what is wrong with them by line; unusable videos are refused, or left out by name."""

from pathlib import Path

import pytest

from dyt.tasks.layouts import DataError
from dyt.tasks.video import VideoSpec, VideoWarning
from dyt.tasks.video.lists import list_split, open_lists

from .conftest import SIZE, film


def test_both_splits(videos: Path) -> None:
    data = open_lists(VideoSpec(root=str(videos)))
    assert (len(data.train), len(data.test), data.classes) == (12, 6, ("0", "1"))
    assert list(data.test.labels) == [0, 1, 0, 1, 0, 1]
    assert data.train.read(0).size == SIZE[::-1]


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", "])
def test_separators_and_spaces_in_names(separator: str, tmp_path: Path) -> None:
    for name in ("a b.mp4", "c,d.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "mine.csv").write_text(f"a b.mp4{separator}0\n\nc,d.mp4{separator}12\n")
    split = list_split(VideoSpec(root=str(tmp_path)), "mine", None)
    assert [path.name for path in split.paths] == ["a b.mp4", "c,d.mp4"]
    assert list(split.labels) == [0, 12]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("a.mp4\n", r"line 1: 'a\.mp4' is not 'path label'"),
        ("a.mp4 x\n", "is not 'path label'"),
        ("a.mp4 0\na.mp4 2\n", "line 2: label 2, but there are 2 classes"),
        ("b.mp4 0\n", r"line 1: no file '.*b\.mp4'"),
        ("\n", "is empty; expected lines"),
        ("", "is empty; expected lines"),
        ("a.mp4 1.5\n", "is not 'path label'"),
        ("a.mp4 -1\n", "is not 'path label'"),
        (f"a.mp4 {'9' * 5000}\n", "is not 'path label'"),
    ],
)
def test_wrong_lists(lines: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "train.txt").write_text(lines)
    with pytest.raises(DataError, match=said) as caught:
        list_split(VideoSpec(root=str(tmp_path)), "train", ["no", "yes"])
    assert str(caught.value).startswith(str(tmp_path / "train.txt"))
    assert "\n" not in str(caught.value)


def test_a_label_that_cannot_be_one_is_not_counted_up_to(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "train.txt").write_text("a.mp4 0\n")
    (tmp_path / "test.txt").write_text("a.mp4 4000000000\n")
    with pytest.raises(DataError, match=r"split 'test': the label 4000000000 of '.*a\.mp4'"):
        open_lists(VideoSpec(root=str(tmp_path)))


def test_lists_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train\.txt: not a readable UTF-8"):
        list_split(VideoSpec(root=str(tmp_path)), "train", None)
    (tmp_path / "classes.txt").touch()
    with pytest.raises(DataError, match=r"classes\.txt is empty; expected one class name"):
        open_lists(VideoSpec(root=str(tmp_path)))


def test_no_list_and_no_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no list '.*train' .*has nothing in it"):
        list_split(VideoSpec(root=str(tmp_path)), "train", None)
    with pytest.raises(DataError, match="no directory"):
        list_split(VideoSpec(root=str(tmp_path / "nowhere")), "train", None)


def test_skip_leaves_out_and_names(tmp_path: Path) -> None:
    film(tmp_path / "good.mp4", 9)
    film(tmp_path / "short.mp4", 3)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video " * 99)
    (tmp_path / "l.txt").write_text("".join(f"{n}.mp4 0\n" for n in ("good", "short", "empty", "text", "absent")))
    with pytest.warns(VideoWarning) as caught:
        kept = list_split(VideoSpec(root=str(tmp_path), corrupt="skip"), "l", None)
    assert [path.name for path in kept.paths] == ["good.mp4", "short.mp4"]
    said = str(caught[0].message)
    assert "3 of 5 videos are left out" in said
    for each in ("no file", "empty.mp4: an empty file", "text.mp4: cannot be read"):
        assert each in said
    with pytest.warns(VideoWarning, match=r"4 of 5 .*short\.mp4: 3 frames, and a clip needs 8"):
        kept = list_split(VideoSpec(root=str(tmp_path), corrupt="skip", short="refuse"), "l", None)
    assert [path.name for path in kept.paths] == ["good.mp4"]


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    film(tmp_path / "short.mp4", 3)
    (tmp_path / "l.txt").write_text("empty.mp4 0\nabsent.mp4 0\nshort.mp4 0\n")
    with pytest.raises(DataError, match=r"l\.txt: 3 of 3 videos are left out: .*; none is left") as caught:
        list_split(VideoSpec(root=str(tmp_path), corrupt="skip", short="refuse"), "l", None)
    for each in ("empty.mp4: an empty file", "no file", "absent.mp4", "short.mp4: 3 frames, and a clip needs 8"):
        assert each in str(caught.value)
    assert "\n" not in str(caught.value)
