"""COCO's layout as it is read, checked, prepared and measured."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from dyt.config.spec import parse
from dyt.errors import DyTError, SpecError
from dyt.tasks.detection import Detection, DetectionSpec
from dyt.tasks.detection.metric import AveragePrecision
from dyt.tasks.detection.outlines import run_lengths
from dyt.tasks.images import ImageError
from dyt.tasks.layouts import DataError
from dyt.tasks.preparation import Preparation
from tasks.coco_data import write
from tasks.odd_images import DAMAGES, MODES, harm, put

TASK = Detection()
READY = Preparation((32, 32), (0.5, 0.25, 0.0), (0.5, 0.5, 0.5))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "shapes")


def changed(root: Path, change: Callable[[dict[str, Any]], Any], split: str = "train") -> None:
    file = root / f"instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_both_splits_are_read(root: Path) -> None:
    data = TASK.open(DetectionSpec(root=str(root)))
    assert data.classes == ("green", "red")  # by id, not as listed
    assert data.train.labels == (2, 2, 2, 0, 2, 2, 2, 0)
    assert len(data.test) == 4
    assert TASK.training_split(DetectionSpec(root=str(root))) == "instances_train.json"
    assert TASK.named(DetectionSpec(root=str(root)), "test") == data.classes
    assert len(TASK.open_split(DetectionSpec(root=str(root)), "train", data.classes)) == 8


def test_the_published_layout_of_coco(root: Path) -> None:
    (root / "annotations").mkdir()
    for split, name in (("train", "train2017"), ("test", "val2017")):
        (root / f"instances_{split}.json").rename(root / "annotations" / f"instances_{name}.json")
        (root / name).mkdir()
        for file in (root / "images").glob(f"{split}*"):
            file.rename(root / name / file.name)
    data = TASK.open(DetectionSpec(root=str(root)))
    assert data.train.paths[0] == root / "train2017" / "train0.png"
    assert data.test.paths[0] == root / "val2017" / "test0.png"


def first(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["annotations"][0]
    return found


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "category": (lambda c: first(c).update(category_id=99), "annotation 1 has the unknown category 99"),
    "image": (lambda c: first(c).update(image_id=99), "annotation 1 is of no image of this file"),
    "area": (lambda c: first(c).update(bbox=[1, 1, 0, 5]), "annotation 1 has a box of no area in the 48 x 64 image"),
    "outside": (
        lambda c: first(c).update(bbox=[40, 1, 20, 5]),
        "annotation 1 has a box that reaches out of the 48 x 64",
    ),
    "nan": (
        lambda c: first(c).update(bbox=[float("nan"), 1, 20, 5]),
        "annotation 1 has the box [nan, 1, 20, 5], not four",
    ),
    "numbers": (lambda c: first(c).update(bbox=["1", 1, 20, 5]), "not four numbers"),
    "far": (lambda c: first(c).update(bbox=[1e300, 1, 20, 5]), "annotation 1 has the box [1e+300, 1, 20, 5], not four"),
    "negative": (lambda c: first(c).update(bbox=[-9, 1, 20, 5]), "annotation 1 has a box that reaches out of the 48"),
    "flat": (lambda c: first(c).update(bbox=[1, 1, -4, 5]), "annotation 1 has a box of no area in the 48 x 64"),
    "away": (lambda c: first(c).update(bbox=[99, 1, 4, 5]), "annotation 1 has a box of no area in the 48 x 64"),
    "no box": (lambda c: first(c).pop("bbox"), "annotation 1 has the box None"),
    "category list": (lambda c: first(c).update(category_id=[7]), "annotation 1 has the unknown category [7]"),
    "image list": (lambda c: first(c).update(image_id=[1]), "annotation 1 is of no image"),
    "no image": (lambda c: first(c).pop("image_id"), "annotation 1 is of no image"),
    "no annotation": (lambda c: c["annotations"].append(5), "annotation number 12 is of no image"),
    "annotations twice": (
        lambda c: c["annotations"][1].update(id=1),
        "annotation 1 has the id of an earlier one",
    ),
    "crowd": (lambda c: first(c).update(iscrowd="0"), "annotation 1 has iscrowd 0, neither 0 nor 1"),
    "area's kind": (lambda c: first(c).update(area="big"), "annotation 1 has the area big, not a number"),
    "area's range": (lambda c: first(c).update(area=float("inf")), "annotation 1 has the area inf, not a number"),
    "categories twice": (lambda c: c["categories"][1].update(id=7), "ids and names all different"),
    "no images": (lambda c: c.update(images=[]), "lists no images"),
    "size": (lambda c: c["images"][0].pop("width"), "lack id, file_name, or width and height"),
    "twice": (lambda c: c["images"][1].update(id=1), "two images have the same id"),
    "categories": (lambda c: c["categories"][0].pop("name"), "categories must be a list of {id, name}"),
    "nothing": (lambda c: c.update(annotations=[]), "has no object in any image"),
    "images": (lambda c: c.pop("images"), "has no list images"),
    "file": (lambda c: c["images"][1].update(file_name="gone.png"), "gone.png"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_answered_by_name_in_one_line(root: Path, what: str) -> None:
    change, said = WRONG[what]
    changed(root, change)
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        TASK.open(DetectionSpec(root=str(root)))
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b'{"images": [{"id": 1, "file_', "not JSON: Unterminated string"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[1, 2]", "has no list images, annotations, categories"),
        (b'{"info": {}, "shapes": []}', "has no list images, annotations, categories"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_files_that_are_not_cocos_are_named(root: Path, content: bytes, said: str) -> None:
    file = root / "instances_test.json"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        TASK.open(DetectionSpec(root=str(root)))
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)
    assert "expected COCO's" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_come_out_as_their_colour(root: Path, mode: str) -> None:
    colour = torch.tensor(put(root / "images/train0.png", mode)).view(3, 1, 1)
    spec = DetectionSpec(root=str(root), flip=0.0)
    image = TASK.examples(spec, TASK.open(spec).train, READY, training=True)[0, 0][0]
    assert bool(((image[:, :32, :24].int() - colour).abs() <= 2).all())


@pytest.mark.parametrize("damage", DAMAGES)
def test_images_that_cannot_be_read_are_named(root: Path, damage: str) -> None:
    harm(root / "images/train1.png", damage)
    spec = DetectionSpec(root=str(root))
    with pytest.raises((DataError, ImageError), match=DAMAGES[damage][1]) as caught:
        TASK.examples(spec, TASK.open(spec).train, READY, training=True)[1, 0]
    assert str(root / "images/train1.png") in str(caught.value)
    assert "\n" not in str(caught.value)


def runs(mask: np.ndarray, packed: bool) -> dict[str, Any]:
    """COCO's run lengths of a mask (H, W), column by column from a background run; packed by pycocotools or plain."""
    if packed:
        made = coco_mask.encode(np.asfortranarray(mask))
        return {"size": made["size"], "counts": made["counts"].decode()}
    flat = [0, *mask.T.flatten().tolist()]
    changes = [i - 1 for i in range(1, len(flat)) if flat[i] != flat[i - 1]]
    return {"size": list(mask.shape), "counts": np.diff([0, *changes, mask.size]).tolist()}


@pytest.mark.parametrize("packed", [True, False])
def test_run_lengths_are_the_masks_that_they_were_made_of(root: Path, packed: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (64, 48), dtype=np.uint8)
    changed(root, lambda c: first(c).update(segmentation=runs(noise, packed), iscrowd=1))
    spec = DetectionSpec(root=str(root), masks=True)
    target = TASK.examples(spec, TASK.open(spec).train, READY, training=False)[0, 0][1]
    assert target["masks"][0].tolist() == noise.tolist()
    assert target["iscrowd"].tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(6))
def test_packed_run_lengths_are_read_as_pycocotools_packs_them(seed: int) -> None:
    """Short, long, falling and rising runs."""
    rng = np.random.default_rng(seed)
    mask = np.repeat(rng.integers(0, 2, (4, 300 // 2**seed + 1), dtype=np.uint8), 4**seed, axis=1)
    assert run_lengths(runs(mask, True)["counts"]) == runs(mask, False)["counts"]


OUTLINES: dict[str, tuple[Any, str]] = {
    "none": ([], "no segmentation; leave data.masks"),
    "empty polygon": ([[]], "polygons are not each three or more"),
    "two points": ([[1, 2, 3, 4]], "polygons are not each three or more"),
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], "polygons are not each three or more"),
    "flat": ([1, 2, 3, 4, 5, 6], "polygons are not each three or more"),
    "words": ([["1"] * 6], "polygons are not each three or more"),
    "nan": ([[float("nan")] * 6], "polygons are not each three or more"),
    "far": ([[1, 1, 1e12, 1, 5, 5]], "polygons are not each three or more"),
    "other size": ({"size": [4, 5], "counts": [20]}, "run lengths of the size [4, 5], not [64, 48] as its image"),
    "too short": ({"size": [64, 48], "counts": [3]}, "run lengths that are not those of 64 x 48 pixels"),
    "too long": ({"size": [64, 48], "counts": [0, 64 * 48, 1]}, "run lengths that are not those"),
    "negative": ({"size": [64, 48], "counts": [-1, 64 * 48 + 1]}, "run lengths that are not those"),
    "packed, too short": ({"size": [64, 48], "counts": "04"}, "run lengths that are not those"),
    "packed, cut": ({"size": [64, 48], "counts": "0PP"}, "run lengths that are not those"),
    "packed, no code": ({"size": [64, 48], "counts": "\u00ff~"}, "run lengths that are not those"),
    "no counts": ({"size": [64, 48]}, "run lengths that are not those"),
}


@pytest.mark.parametrize("what", OUTLINES)
def test_outlines_that_are_none_are_named(root: Path, what: str) -> None:
    outline, said = OUTLINES[what]
    changed(root, lambda c: first(c).update(segmentation=outline))
    with pytest.raises(DataError, match=rf"instances_train\.json: annotation 1 has .*{re.escape(said)}"):
        TASK.open(DetectionSpec(root=str(root), masks=True))


def test_wrong_files_are_answered_by_name(root: Path) -> None:
    spec = DetectionSpec(root=str(root))
    changed(root, lambda c: c["categories"].append({"id": 9, "name": "blue"}), "test")
    with pytest.raises(DataError, match="categories blue are not among the 2 known classes"):
        TASK.open(spec)
    (root / "instances_test.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances_test\.json cannot be read \(not JSON"):
        TASK.open(spec)
    (root / "instances_test.json").unlink()
    with pytest.raises(DataError, match="no annotations of test or val or val2017"):
        TASK.open(spec)
    with pytest.raises(DataError, match="no directory"):
        TASK.open(DetectionSpec(root=str(root / "gone")))
    with pytest.raises(SpecError, match="the smaller factor comes first"):
        parse(DetectionSpec, {"root": "", "jitter": [2.0, 0.5]})


def test_outlines_are_asked_for_only_where_they_are_read(root: Path) -> None:
    changed(root, lambda c: first(c).pop("segmentation"))
    assert len(TASK.open(DetectionSpec(root=str(root))).train) == 8
    with pytest.raises(DataError, match="annotation 1 has no segmentation; leave data.masks at false"):  # noqa: RUF043
        TASK.open(DetectionSpec(root=str(root), masks=True))


def test_wrong_boxes_can_be_left_out(root: Path) -> None:
    changed(
        root, lambda c: (c["annotations"][0].update(bbox=[1, 1, 0, 5]), c["annotations"][1].update(bbox=[40, 1, 20, 5]))
    )
    split = TASK.open(DetectionSpec(root=str(root), wrong_boxes="leave_out")).train
    assert split.objects[0].boxes.tolist() == [[40, 1, 48, 6]]


def test_a_file_of_another_size_than_its_annotations_say(root: Path) -> None:
    Image.new("RGB", (10, 10)).save(root / "images" / "train0.png")
    data = TASK.open(DetectionSpec(root=str(root)))
    with pytest.raises(DataError, match=r"train0\.png is 10 x 10 px, its annotations say 48 x 64"):
        TASK.examples(DetectionSpec(root=str(root)), data.train, READY, training=True)[0, 0]


def test_images_are_filled_up_with_the_mean_colour_and_boxes_follow(root: Path) -> None:
    spec = DetectionSpec(root=str(root), masks=True, flip=0.0)
    data = TASK.open(spec)
    image, target = TASK.examples(spec, data.train, READY, training=True)[0, 0]
    assert image.shape == (3, 32, 32)
    assert torch.equal(image[:, :, 24:], torch.tensor([128, 64, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 8))
    assert torch.allclose(target["boxes"], torch.from_numpy(data.train.objects[0].boxes) / 2)
    assert target["labels"].tolist() == [2, 1]
    assert target["masks"].shape == (2, 32, 32)
    for box, mask in zip(target["boxes"], target["masks"], strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert bool(((seen - box).abs() <= 1).all())
    empty = TASK.examples(spec, data.train, READY, training=True)[3, 0][1]
    assert [tuple(empty[name].shape) for name in ("boxes", "labels", "masks")] == [(0, 4), (0,), (0, 32, 32)]


def test_mirrored_and_jittered_boxes_stay_on_their_objects(root: Path) -> None:
    spec = DetectionSpec(root=str(root), jitter=(0.5, 2.0))
    data = TASK.open(spec)
    examples = TASK.examples(spec, data.train, READY, training=True)
    seen = 0
    for seed in range(40):
        image, target = examples[0, seed]
        again = examples[0, seed]
        assert torch.equal(image, again[0])
        assert torch.equal(target["boxes"], again[1]["boxes"])
        for box, label in zip(target["boxes"], target["labels"].tolist(), strict=True):
            x, y = ((box[:2] + box[2:]) / 2).int().tolist()
            red, green = (int(v) for v in image[:2, y, x])
            assert (green > red) == (label == 1) or len(target["boxes"]) > 1  # a later box may cover an earlier one
            seen += 1
    assert seen > 40


def test_crowds_are_not_trained_on_and_not_counted_as_missed(root: Path) -> None:
    changed(root, lambda c: first(c).update(iscrowd=1))
    spec = DetectionSpec(root=str(root), size=32)
    data = TASK.open(spec)
    assert TASK.examples(spec, data.train, READY, training=True)[0, 0][1]["labels"].tolist() == [1]
    _, target = TASK.examples(spec, data.train, READY, training=False)[0, 0]
    assert target["iscrowd"].tolist() == [1, 0]
    measure = AveragePrecision()
    found = target["boxes"][1:] * target["scale"].repeat(2)
    measure.update([{"boxes": found, "labels": target["labels"][1:], "scores": torch.ones(1)}], [target])
    assert measure.compute()["map"] == pytest.approx(1.0)


@pytest.mark.parametrize("masks", [False, True])
def test_what_is_found_in_the_input_is_measured_in_the_original(root: Path, masks: bool) -> None:
    spec = DetectionSpec(root=str(root), masks=masks)
    data = TASK.open(spec)
    examples = TASK.examples(spec, data.test, READY, training=False)
    measure = TASK.measure(("green", "red"), torch.device("cpu"))
    for i in range(4):
        _, target = examples[i, 0]
        n = len(target["boxes"])
        found = {
            "boxes": target["boxes"] * target["scale"].repeat(2),
            "labels": target["labels"],
            "scores": torch.ones(n),
        }
        if masks:
            found["masks"] = torch.ones(n, 28, 28)
        measure.update([found], [target])
    values = measure.compute()
    assert next(iter(values)) == "map"
    assert values["map"] == pytest.approx(1.0)
    assert ("mask_map_50" in values) == masks
    assert not masks or values["mask_map_50"] == pytest.approx(1.0)


def test_what_lies_in_the_padding_alone_is_left_out(root: Path) -> None:
    spec = DetectionSpec(root=str(root))
    _, target = TASK.examples(spec, TASK.open(spec).test, READY, training=False)[3, 0]
    assert len(target["boxes"]) == 0
    from dyt.tasks.detection.metric import in_original

    padding = {"boxes": torch.tensor([[0.0, 25, 30, 31], [0, 0, 31, 31]])}
    kept = in_original(padding | {"labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, 0.8])}, target)
    assert kept["labels"].tolist() == [2]
    assert kept["boxes"].tolist() == [[0, 0, 62, 40]]


def test_missing_pycocotools_is_answered_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyt.tasks.detection.task.find_spec", lambda name: None)
    with pytest.raises(DyTError, match=r"pip install 'dyt\[detection\]'"):
        TASK.open(DetectionSpec(root="."))
