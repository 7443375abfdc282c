"""Classes are told apart by their names: the same ones in another order are the same ones, others are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dyt.tasks.data import DataSpec, open_data, open_split
from dyt.tasks.layouts import DataError, Split, by_name, relabelled
from dyt.tasks.segmentation import Segmentation, SegmentationSpec

NAMES = ("cat", "dog", "emu")
TURNED = ("emu", "cat", "dog")


def lists(root: Path, names: tuple[str, ...] | None) -> Path:
    """One image of each class, called so, in the order of `names`; without names in that of NAMES."""
    root.mkdir()
    order = names or NAMES
    for name in order:
        Image.new("RGB", (4, 4)).save(root / f"{name}.png")
    lines = "".join(f"{name}.png {i}\n" for i, name in enumerate(order))
    for split in ("train800val200", "test"):
        (root / f"{split}.txt").write_text(lines)
    if names is not None:
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def meant(split: Split) -> dict[str, int]:
    return {path.stem: label for path, label in zip(split.paths, split.labels, strict=True)}


def test_lists_in_another_order_mean_the_same(tmp_path: Path) -> None:
    one, other = (DataSpec(root=str(lists(tmp_path / n[0], n))) for n in (NAMES, TURNED))
    classes = open_data(one).classes
    assert classes == NAMES
    expected = {"cat": 0, "dog": 1, "emu": 2}
    assert meant(open_split(one, None, classes)) == meant(open_split(other, None, classes)) == expected


def test_other_classes_are_refused_by_name(tmp_path: Path) -> None:
    spec = DataSpec(root=str(lists(tmp_path / "data", ("cat", "dog", "yak"))))
    with pytest.raises(
        DataError, match=r"1 of 3 classes that the model does not have \(yak\).*1 are not there \(emu\)"
    ):
        open_split(spec, None, NAMES)
    fewer = DataSpec(root=str(lists(tmp_path / "fewer", ("emu", "cat"))))
    assert meant(open_split(fewer, None, NAMES)) == {"emu": 2, "cat": 0}


def test_lists_without_names_are_numbers_of_outputs_and_say_so(tmp_path: Path) -> None:
    spec = DataSpec(root=str(lists(tmp_path / "bare", None)))
    assert open_data(spec).classes == ("0", "1", "2")
    split = open_split(spec, None, TURNED)
    assert not split.named
    assert meant(split) == {"cat": 0, "dog": 1, "emu": 2}
    named = DataSpec(root=str(lists(tmp_path / "named", NAMES)))
    assert open_split(named, None, NAMES).named
    with pytest.raises(DataError, match=r"--classes gives the model's"):
        open_split(named, None, ("0", "1", "2"))


def test_hugging_face_data_in_another_order(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face data needs pip install 'dyt[hf]'")
    rows = {"image": [Image.new("RGB", (4, 4))] * 3, "label": [0, 1, 2]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(TURNED))})
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "data")
    split = open_split(DataSpec(root=str(tmp_path / "data")), None, NAMES)
    assert list(split.labels) == [2, 0, 1]


def test_masks_in_another_order(tmp_path: Path) -> None:
    for kind in ("images", "annotations"):
        (tmp_path / kind / "test").mkdir(parents=True)
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "annotations" / "test" / "a.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / "test" / "a.png")
    (tmp_path / "classes.txt").write_text("\n".join(TURNED))
    spec = SegmentationSpec(root=str(tmp_path))
    seen: dict[tuple[str, ...], Any] = {}
    for classes in (NAMES, TURNED):
        split: Any = Segmentation().open_split(spec, None, classes)
        seen[classes] = split.mask(0).tolist()
    assert seen[TURNED] == mask.tolist()
    assert seen[NAMES] == [[2, 0], [1, 255]]
    with pytest.raises(DataError, match=r"classes that the model does not have \(emu\)"):
        Segmentation().open_split(spec, None, ("cat", "dog", "yak"))


def test_video_lists_in_another_order(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need pip install 'dyt[video]'")
    from dyt.tasks.video.lists import list_split
    from dyt.tasks.video.spec import VideoSpec

    for name in TURNED:
        (tmp_path / f"{name}.mp4").write_bytes(b"not opened")
    (tmp_path / "test.txt").write_text("".join(f"{name}.mp4 {i}\n" for i, name in enumerate(TURNED)))
    (tmp_path / "classes.txt").write_text("\n".join(TURNED))
    spec = VideoSpec(root=str(tmp_path))
    assert meant(list_split(spec, "test", NAMES)) == {"cat": 0, "dog": 1, "emu": 2}
    with pytest.raises(DataError, match=r"\(emu\)"):
        list_split(spec, "test", ("cat", "dog", "yak"))


def test_names_that_several_classes_have() -> None:
    twice = ("wall", "door", "wall")
    assert by_name(twice, twice, "data") == (0, 1, 2)  # in the model's own order it does not matter
    with pytest.raises(DataError, match="several are called 'wall'"):
        by_name(("wall", "wall", "door"), twice, "data")


def test_relabelling_leaves_the_rest() -> None:
    split = Split("some", (0, 1, 1), lambda i: Image.new("RGB", (1, 1)))
    assert relabelled(split, (0, 1)) is split
    assert relabelled(split, (1, 0)).labels == (1, 0, 0)


def test_coco_s_categories_too(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="detection needs pip install 'dyt[detection]'")
    from dyt.tasks.detection import Detection, DetectionSpec

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    box = {"image_id": 1, "bbox": [0, 0, 4, 4], "area": 16}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(TURNED)],
        "annotations": [{**box, "id": i, "category_id": i} for i in range(3)],
    }
    (tmp_path / "instances_test.json").write_text(json.dumps(content))
    split: Any = Detection().open_split(DetectionSpec(root=str(tmp_path)), None, NAMES)
    assert torch.from_numpy(split.objects[0].labels).tolist() == [2, 0, 1]
    with pytest.raises(DataError, match=r"categories emu are not among"):
        Detection().open_split(DetectionSpec(root=str(tmp_path)), None, ("cat", "dog", "yak"))
