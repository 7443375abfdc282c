"""Layouts are told from what lies there; each problem is one line that says what was found and what is expected."""

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dyt.config.spec import parse
from dyt.errors import SpecError
from dyt.tasks import DataError, DataSpec, ImageError, open_data, open_split
from tasks.odd_images import DAMAGES, MODES


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train/b/1.png", "train/a/2.jpg", "train/a/deep/3.png", "val/a/4.png", "val/b/5.PNG"):
        picture(tmp_path / name)
    (tmp_path / "train/a/notes.txt").write_text("not an image")
    return tmp_path


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    for i in range(4):
        picture(tmp_path / f"images/a {i}.png")
    (tmp_path / "train800val200.txt").write_text("images/a 0.png 0\nimages/a 1.png 2\n\n")
    (tmp_path / "test.txt").write_text("images/a 2.png 1\nimages/a 3.png 0\n")
    return tmp_path


def opened(root: Path, **fields: Any) -> Any:
    return open_data(DataSpec(root=str(root), **fields))


def test_class_folders(folder: Path) -> None:
    data = opened(folder)
    assert data.classes == ("a", "b")
    assert list(data.train.labels) == [0, 0, 1]
    assert data.test.name == "val"
    assert list(data.test.labels) == [0, 1]
    assert pickle.loads(pickle.dumps(data.train)).read(0).size == (4, 4)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"auto_augment": "rand-m9-mstd0.5"}, "auto_augment is of augment: timm; given augment: none"),
        ({"augment": "crop", "random_erasing": 0.5}, "random_erasing is of augment: timm; given augment: crop"),
        ({"color_jitter": 0.0}, "color_jitter is of augment: timm"),
        ({"augment": "crop", "cache": True}, "cache keeps images that are not augmented; given augment: crop"),
    ],
)
def test_what_nothing_would_take_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse(DataSpec, {"root": "x", **fields})


def test_test_goes_before_val(folder: Path) -> None:
    picture(folder / "test/a/6.png")
    assert opened(folder).test.name == "test"
    assert opened(folder, test="val").test.name == "val"


def test_lists_with_and_without_names(lists: Path) -> None:
    data = opened(lists)
    assert data.classes == ("0", "1", "2")
    assert list(data.train.labels) == [0, 2]
    (lists / "classes.txt").write_text("x\ny\nz\nw\n")
    assert opened(lists).classes == ("x", "y", "z", "w")
    assert opened(lists, train="test").train.name == "test"


def test_a_split_by_its_name(lists: Path, folder: Path) -> None:
    assert list(open_split(DataSpec(root=str(lists), format="vtab"), None, ["a", "b", "c"]).labels) == [1, 0]
    assert list(open_split(DataSpec(root=str(folder), format="folder"), "val", ["z", "a", "b"]).labels) == [1, 2]


def hf(root: Path, labels: list[Any], names: list[str] | None = None) -> Path:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    rows = {"image": [Image.new("L", (4, 4), 9) for _ in labels], "label": labels}
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(str(root))
    return root


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_hugging_face_on_disk(tmp_path: Path) -> None:
    data = opened(hf(tmp_path / "named", [0, 1, 1], ["cat", "dog"]))
    assert data.classes == ("cat", "dog")
    assert data.test.name == "validation"
    assert data.train.read(2).getpixel((0, 0)) == (9, 9, 9)
    assert opened(hf(tmp_path / "numbered", [0, 2])).classes == ("0", "1", "2")
    with pytest.raises(DataError, match="1 bad labels"):
        opened(hf(tmp_path / "bad", [0, -1]))
    with pytest.raises(DataError, match="no split 'none'; it has train, validation"):
        opened(tmp_path / "named", test="none")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_hugging_face_rows_of_every_kind(tmp_path: Path) -> None:
    """Modes come out by the rule of files; what cannot be read is named by its row."""
    datasets = pytest.importorskip("datasets")
    whole = MODES["RGBA"][0]((8, 8))
    spoilt = {damage: spoil(whole) for damage, (spoil, _) in DAMAGES.items() if damage != "missing"}
    contents: list[Any] = [make((8, 8)) for make, _, _ in MODES.values()] + list(spoilt.values())
    rows = {"image": [*({"bytes": each, "path": None} for each in contents), None], "label": [0] * (len(contents) + 1)}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "d"))
    read = opened(tmp_path / "d").test.read
    for i, (_, _, colour) in enumerate(MODES.values()):
        assert read(i).mode == "RGB"
        assert read(i).getpixel((3, 3)) == pytest.approx(colour, abs=2)
    for i, said in [*enumerate(["cannot be read", "cannot be read", "not an image"], len(MODES)), (-1, "no image;")]:
        i = i % len(rows["image"])
        with pytest.raises((DataError, ImageError), match=rf"test, row {i}: .*{said}") as caught:
            read(i)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("content", [b"", None])
def test_damaged_hugging_face_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    root = hf(tmp_path / "d", [0, 1])
    for file in [file for file in root.rglob("*") if file.is_file()]:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] if content is None else content)
        with pytest.raises(DataError, match=rf"{re.escape(str(file))} cannot be read .* write .* again") as caught:
            opened(root, format="hf")
        assert "\n" not in str(caught.value)
        file.write_bytes(whole)
    assert len(opened(root).train) == 2


def test_hugging_face_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "dyt\[hf\]"'):
        opened(tmp_path)


def test_nothing_known_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no directory"):
        opened(tmp_path / "none")
    with pytest.raises(DataError, match="nothing in it; expected class folders"):
        opened(tmp_path)
    (tmp_path / "cats.zip").touch()
    with pytest.raises(DataError, match=r"has cats\.zip; expected"):
        opened(tmp_path)


def test_folders_that_do_not_fit(folder: Path) -> None:
    picture(folder / "val/c/7.png")
    with pytest.raises(DataError, match=r"1 class folders that are not among the 2 known classes \(c\)"):
        opened(folder)
    with pytest.raises(DataError, match="no directory"):
        opened(folder, test="nowhere")
    (folder / "bare/a").mkdir(parents=True)
    with pytest.raises(DataError, match="no images in"):
        opened(folder, test="bare")
    (folder / "flat").mkdir()
    picture(folder / "flat/1.png")
    with pytest.raises(DataError, match=r"no class folders in .*1\.png"):
        opened(folder, train="flat")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("images/a 0.png\n", "line 1: 'images/a 0.png' is not 'path label'"),
        ("images/a 0.png 0\nimages/a 0.png -1\n", "line 2"),
        ("images/a 0.png 1.5\n", "is not 'path label'"),
        ("images/none.png 0\n", "line 1: no file"),
        ("images/a 0.png 3\n", "label 3, but there are 3 classes"),
        ("nothing 0\n" * 9, "and 4 more"),
        ("\n", "is empty"),
    ],
)
def test_lines_that_do_not_fit(lists: Path, lines: str, message: str) -> None:
    (lists / "classes.txt").write_text("x\ny\nz\n")
    (lists / "test.txt").write_text(lines)
    with pytest.raises(DataError) as caught:
        opened(lists)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_that_are_no_text(lists: Path) -> None:
    (lists / "test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        opened(lists)
    with pytest.raises(DataError, match=r"no list .*nope\.txt"):
        opened(lists, train="nope")
    (lists / "classes.txt").write_text("\n")
    with pytest.raises(DataError, match=r"classes\.txt is empty"):
        opened(lists)
