"""Published layouts, in small generated copies: read whole, and every damage answered by name in one line."""

import json
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from dyt.tasks import DataError, DataSpec, ImageError, open_data, open_split
from tasks.odd_images import DAMAGES, MODES, harm, put

rng = np.random.default_rng(0)


def savemat(file: Path, variables: dict[str, Any]) -> None:
    pytest.importorskip("scipy.io", reason="scipy writes them").savemat(file, variables)


def picture(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 5), 0).save(path)
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def pickled(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=2))


def cifar100(root: Path) -> None:
    home = root / "cifar-100-python"
    for split, count in (("train", 4), ("test", 2)):
        data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        data[0] = [1] * 1024 + [2] * 1024 + [3] * 1024
        labels = [i % 2 for i in range(count)]
        pickled(home / split, {b"fine_labels": labels, b"coarse_labels": labels, b"data": data})
    pickled(home / "meta", {b"fine_label_names": ["apple", "baby"], b"coarse_label_names": ["x"]})


def svhn(root: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        pixels = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        pixels[0, 0, :, 0] = 1, 2, 3
        savemat(root / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [9]], np.uint8)[:count]})


def food101(root: Path) -> None:
    home = root / "food-101"
    text(home / "meta/classes.txt", "apple_pie\nwaffles\n")
    text(home / "meta/train.txt", "apple_pie/1\nwaffles/2\n")
    text(home / "meta/test.txt", "waffles/3\n")
    for name in ("apple_pie/1", "waffles/2", "waffles/3"):
        picture(home / f"images/{name}.jpg")


def aircraft(root: Path) -> None:
    home = root / "fgvc-aircraft-2013b/data"
    text(home / "variants.txt", "707-320\nBoeing 717\n")
    text(home / "images_variant_trainval.txt", "0000001 Boeing 717\n0000002 707-320\n")
    text(home / "images_variant_test.txt", "0000003 Boeing 717\n")
    for number in (1, 2, 3):
        picture(home / f"images/000000{number}.jpg")


def pets(root: Path) -> None:
    text(root / "annotations/trainval.txt", "Abyssinian_1 1 1 1\namerican_bulldog_2 2 2 1\n")
    text(root / "annotations/test.txt", "american_bulldog_3 2 2 1\n")
    for name in ("Abyssinian_1", "american_bulldog_2", "american_bulldog_3"):
        picture(root / f"images/{name}.jpg")


def annotations(file: Path, rows: list[tuple[str, int]]) -> None:
    kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    savemat(file, {"annotations": np.array([(1, label, name) for name, label in rows], dtype=kind).reshape(1, -1)})


def cars(root: Path) -> None:
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit/cars_meta.mat", {"class_names": np.array(["Audi", "BMW M3"], dtype=object).reshape(1, -1)})
    annotations(root / "devkit/cars_train_annos.mat", [("00001.jpg", 2), ("00002.jpg", 1)])
    annotations(root / "cars_test_annos_withlabels.mat", [("00001.jpg", 2)])
    for name in ("cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg"):
        picture(root / name)


MADE: dict[str, tuple[Callable[[Path], None], tuple[str, ...], list[int], list[int], tuple[str, str]]] = {
    "cifar100": (cifar100, ("apple", "baby"), [0, 1, 0, 1], [0, 1], ("train", "test")),
    "svhn": (svhn, tuple("0123456789"), [0, 1, 9], [0, 1], ("train", "test")),
    "food101": (food101, ("apple_pie", "waffles"), [0, 1], [1], ("train", "test")),
    "aircraft": (aircraft, ("707-320", "Boeing 717"), [1, 0], [1], ("trainval", "test")),
    "pets": (pets, ("Abyssinian", "american bulldog"), [0, 1], [1], ("trainval", "test")),
    "cars": (cars, ("Audi", "BMW M3"), [1, 0], [1], ("train", "test")),
}


@pytest.mark.parametrize("name", MADE)
def test_read_as_published(name: str, tmp_path: Path) -> None:
    """Detected by `auto`; and a split alone, with the classes that a model has."""
    make, classes, train, test, splits = MADE[name]
    make(tmp_path)
    data = open_data(DataSpec(root=str(tmp_path)))
    assert (data.classes, list(data.train.labels), list(data.test.labels)) == (classes, train, test)
    assert (data.train.name, data.test.name) == splits
    image = pickle.loads(pickle.dumps(data.test)).read(0)
    assert (image.mode, image.size) == ("RGB", (6, 5) if data.test.paths else (32, 32))
    spec = DataSpec(root=str(tmp_path), format=name)
    assert list(open_split(spec, None, classes).labels) == test
    with pytest.raises(DataError, match="classes"):
        open_split(spec, None, classes[:1])
    with pytest.raises(DataError, match="nope"):
        open_split(spec, "nope", classes)


def theirs(name: str, root: Path, train: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
    """torchvision's data set of the same files."""
    split = "train" if train else "test"
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)  # of the publisher's bytes
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *args: True)
    match name:
        case "cifar100":
            for file in (root / "cifar-100-python").iterdir():  # by Python 2, it has no bytes
                content = pickle.loads(file.read_bytes())
                names = [name.decode() if isinstance(name, bytes) else name for name in content]
                pickled(file, dict(zip(names, content.values(), strict=True)))
            return datasets.CIFAR100(root, train)
        case "svhn":
            return datasets.SVHN(root, split)
        case "food101":
            lists = (
                {"apple_pie": ["apple_pie/1"], "waffles": ["waffles/2"]}
                if train
                else {"apple_pie": [], "waffles": ["waffles/3"]}
            )
            text(root / f"food-101/meta/{split}.json", json.dumps(lists))
            return datasets.Food101(root, split)
        case "aircraft":
            return datasets.FGVCAircraft(root, "trainval" if train else "test")
        case "pets":
            (root / "oxford-iiit-pet").symlink_to(root)
            return datasets.OxfordIIITPet(root, "trainval" if train else "test")
        case _:
            (root / "stanford_cars").symlink_to(root)
            return datasets.StanfordCars(root, split)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", MADE)
def test_images_and_labels_are_those_of_torchvision(
    name: str, train: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MADE[name][0](tmp_path)
    if name == "cars":  # torchvision cannot read a list of one image
        annotations(tmp_path / "cars_test_annos_withlabels.mat", [("00001.jpg", 2), ("00002.jpg", 1)])
        picture(tmp_path / "cars_test/00002.jpg")
    for file in tmp_path.rglob("*.jpg"):  # else all are alike
        Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).save(file)
    data = open_data(DataSpec(root=str(tmp_path), format=name))
    ours = data.train if train else data.test
    reference = theirs(name, tmp_path, train, monkeypatch)
    assert len(ours) == len(reference) >= 1
    for i, label in enumerate(ours.labels):
        image, expected = reference[i]
        assert label == expected
        np.testing.assert_array_equal(np.asarray(ours.read(i)), np.asarray(image))


@pytest.mark.parametrize("name", ["cifar100", "svhn"])
def test_channels_stand_where_they_belong(name: str, tmp_path: Path) -> None:
    MADE[name][0](tmp_path)
    assert open_data(DataSpec(root=str(tmp_path))).train.read(0).getpixel((0, 0)) == (1, 2, 3)


def test_root_may_be_the_unpacked_folder_itself(tmp_path: Path) -> None:
    for make, inner in ((cifar100, "cifar-100-python"), (food101, "food-101"), (aircraft, "fgvc-aircraft-2013b")):
        make(tmp_path / make.__name__)
        assert len(open_data(DataSpec(root=str(tmp_path / make.__name__ / inner))).test) >= 1


def test_two_layouts_in_one_place_are_not_guessed(tmp_path: Path) -> None:
    svhn(tmp_path)
    pets(tmp_path)
    with pytest.raises(DataError, match=r"looks like svhn and like pets; say which with data\.format"):
        open_data(DataSpec(root=str(tmp_path)))
    assert open_data(DataSpec(root=str(tmp_path), format="pets")).test.name == "test"


FILES = {
    "cifar100": ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
    "food101": ("food-101/meta/train.txt", "food-101/meta/classes.txt", "food-101/images/waffles/3.jpg"),
    "aircraft": tuple(
        f"fgvc-aircraft-2013b/data/{name}" for name in ("variants.txt", "images_variant_test.txt", "images/0000003.jpg")
    ),
    "pets": ("annotations/trainval.txt", "annotations/test.txt", "images/american_bulldog_3.jpg"),
    "cars": ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"),
}
EACH = [(name, file) for name, listed in FILES.items() for file in listed]


def answered(name: str, root: Path) -> str:
    """The one line with which opening, or reading the first test image, is refused."""
    with pytest.raises((DataError, ImageError)) as caught:
        open_data(DataSpec(root=str(root), format=name)).test.read(0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "file"), EACH)
def test_missing_and_empty_files_are_named(name: str, file: str, tmp_path: Path) -> None:
    MADE[name][0](tmp_path)
    (tmp_path / file).write_bytes(b"")
    assert Path(file).name in answered(name, tmp_path)
    (tmp_path / file).unlink()
    assert Path(file).name in answered(name, tmp_path)


@pytest.mark.parametrize(("name", "file"), [case for case in EACH if not case[1].endswith(".txt")])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_files_are_named(name: str, file: str, kept: float, tmp_path: Path) -> None:
    MADE[name][0](tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: int(kept * len(whole))])
    assert Path(file).name in answered(name, tmp_path)


def folder(root: Path) -> None:
    for name in ("train/a/1.jpg", "train/b/2.jpg", "test/b/3.jpg"):
        picture(root / name)


def vtab(root: Path) -> None:
    for name in ("1", "2", "3"):
        picture(root / f"images/{name}.jpg")
    text(root / "train800val200.txt", "images/1.jpg 0\nimages/2.jpg 1\n")
    text(root / "test.txt", "images/3.jpg 1\n")


PICTURES: dict[str, tuple[Callable[[Path], None], str]] = {
    "folder": (folder, "test/b/3.jpg"),
    "vtab": (vtab, "images/3.jpg"),
    "food101": (food101, "food-101/images/waffles/3.jpg"),
    "aircraft": (aircraft, "fgvc-aircraft-2013b/data/images/0000003.jpg"),
    "pets": (pets, "images/american_bulldog_3.jpg"),
    "cars": (cars, "cars_test/00001.jpg"),
}
"""Layouts of files, and the first image of the test split."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PICTURES)
def test_images_of_every_mode_come_out_as_their_colour(name: str, mode: str, tmp_path: Path) -> None:
    make, file = PICTURES[name]
    make(tmp_path)
    colour = put(tmp_path / file, mode)
    image = open_data(DataSpec(root=str(tmp_path), format=name)).test.read(0)
    assert (image.mode, image.size) == ("RGB", (6, 5))
    assert np.abs(np.asarray(image).astype(int) - colour).max() <= 2


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", PICTURES)
def test_images_that_cannot_be_read_are_named(name: str, damage: str, tmp_path: Path) -> None:
    make, file = PICTURES[name]
    make(tmp_path)
    picture(tmp_path / Path(file).with_name("other.jpg"))  # its folder is never without an image
    harm(tmp_path / file, damage)
    if (name, damage) == ("folder", "missing"):  # nothing tells that it was there
        assert [path.name for path in open_data(DataSpec(root=str(tmp_path))).test.paths] == ["other.jpg"]
        return
    (tmp_path / Path(file).with_name("other.jpg")).unlink()
    answer = answered(name, tmp_path)
    assert file in answer
    assert re.search(DAMAGES[damage][1], answer)


def test_class_folders_without_an_image_are_named(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "train/b/2.jpg").unlink()
    text(tmp_path / "train/b/readme.txt", "gone")
    answer = answered("folder", tmp_path)
    assert f"no images in 1 of 2 class folders of '{tmp_path}/train' (b)" in answer


@pytest.mark.parametrize(
    ("name", "folder"), [("food101", "food-101/images"), ("pets", "images"), ("cars", "cars_test")]
)
def test_a_missing_folder_of_images_is_named(name: str, folder: str, tmp_path: Path) -> None:
    MADE[name][0](tmp_path)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    assert f"no file '{tmp_path / folder}" in answered(name, tmp_path)


def test_a_label_that_cannot_be_one_is_not_counted_up_to(tmp_path: Path) -> None:
    vtab(tmp_path)
    text(tmp_path / "test.txt", "images/3.jpg 4000000000\n")
    answer = answered("vtab", tmp_path)
    assert "split 'test': the label 4000000000 of" in answer
    assert "images/3.jpg" in answer


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    cifar100(tmp_path)
    pickled(tmp_path / "cifar-100-python/test", {"data": Evil(tmp_path / "ran"), "fine_labels": [0]})
    assert "asks for posix.mkdir" in answered("cifar100", tmp_path).replace("nt.mkdir", "posix.mkdir")
    assert not (tmp_path / "ran").exists()


def cifar_with(**changed: Any) -> dict[str, Any]:
    return {"fine_labels": [0, 1], "data": np.zeros((2, 3072), np.uint8)} | changed


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "a pickle of list; expected a mapping"),
        (cifar_with(data=np.zeros((2, 3072), np.uint16)), "array of 'u2'; expected uint8"),
        (cifar_with(data=np.zeros((2, 1024), np.uint8)), "expected (N, 3072), 32 x 32 RGB"),
        (cifar_with(data=np.zeros((0, 3072), np.uint8), fine_labels=[0]), "no images in it"),
        (cifar_with(data=np.array([None, None])), "expected uint8"),
        (cifar_with(data="zeros"), "is no array"),
        (cifar_with(fine_labels=[0]), "2 images, but 1 labels"),
        (cifar_with(fine_labels=[0, 2]), "labels that are not among 2 classes (image 1: 2)"),
        (cifar_with(fine_labels=["0", "1"]), "no list 'fine_labels' of int"),
    ],
)
def test_cifar_of_another_kind(value: Any, message: str, tmp_path: Path) -> None:
    cifar100(tmp_path)
    pickled(tmp_path / "cifar-100-python/test", value)
    answer = answered("cifar100", tmp_path)
    assert message in answer
    assert "test" in answer


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "no variable y; it has X"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1), np.uint8)}, "expected 8-bit RGB"),
        ({"X": np.zeros((32, 32, 1, 2), np.uint8), "y": np.ones((2, 1), np.uint8)}, "expected 8-bit RGB"),
        ({"X": np.zeros((32, 32), np.uint8), "y": np.ones((2, 1), np.uint8)}, "expected (32, 32, 3, N)"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((1, 1), np.uint8)}, "2 images, but 1 labels"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.full((2, 1), 11, np.uint8)}, "not among 10 classes"),
    ],
)
def test_svhn_of_another_kind(variables: dict[str, Any], message: str, tmp_path: Path) -> None:
    svhn(tmp_path)
    savemat(tmp_path / "test_32x32.mat", variables)
    answer = answered("svhn", tmp_path)
    assert message in answer
    assert "test_32x32.mat" in answer


def test_svhn_of_a_single_image(tmp_path: Path) -> None:
    svhn(tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3), np.uint8), "y": np.full((1, 1), 10, np.uint8)})
    assert list(open_data(DataSpec(root=str(tmp_path))).test.labels) == [0]


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("food101", "food-101/meta/test.txt", "waffles\n", "line 1: 'waffles' is not 'class/number'"),
        ("food101", "food-101/meta/test.txt", "\nsoup/3\n", "line 2: class 'soup' is not in classes.txt"),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "1\n", "is not 'number variant'"),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "0000003 A380\n", "class 'A380' is not in"),
        ("pets", "annotations/test.txt", "american_bulldog_3 0 2 1\n", "classes from 1"),
        ("pets", "annotations/test.txt", "american_bulldog_3 3 2 1\n", "label 2, but there are 2 classes"),
        ("pets", "annotations/trainval.txt", "Abyssinian_1 1 1 1\namerican_bulldog_2 1 2 1\n", "for several breeds"),
    ],
)
def test_lists_of_another_kind(name: str, file: str, content: str, message: str, tmp_path: Path) -> None:
    MADE[name][0](tmp_path)
    text(tmp_path / file, content)
    assert message in answered(name, tmp_path)


def test_cars_of_another_kind(tmp_path: Path) -> None:
    cars(tmp_path)
    file = tmp_path / "cars_test_annos_withlabels.mat"
    annotations(file, [("00001.jpg", 3), ("00009.jpg", 1)])
    answer = answered("cars", tmp_path)
    assert "00001.jpg has class 3 of 2" in answer
    assert "no file" in answer
    annotations(file, [("00001.jpg", "Audi")])  # type: ignore[list-item]
    assert "the class of 00001.jpg is no integer" in answered("cars", tmp_path)
    savemat(file, {"annotations": np.array([("00001.jpg",)], dtype=[("fname", "O")]).reshape(1, -1)})
    assert "annotations without class" in answered("cars", tmp_path)
    file.unlink()
    assert "test labels are not in the devkit" in answered("cars", tmp_path)


def test_matlab_files_need_no_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    svhn(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert list(open_data(DataSpec(root=str(tmp_path))).test.labels) == [0, 1]


def test_what_is_no_matlab_file_is_named(tmp_path: Path) -> None:
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (tmp_path / name).write_bytes(b"MATLAB 5.0 MAT-file")
    assert answered("svhn", tmp_path) == (
        f"{tmp_path / 'train_32x32.mat'}: not a readable .mat file (no header of version 5 to 7); download it again"
    )
    (tmp_path / "train_32x32.mat").write_bytes(b"")
    assert "an empty file; download it again" in answered("svhn", tmp_path)
