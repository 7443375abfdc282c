"""Average precision against pycocotools run on the files themselves, as whoever publishes a figure runs it."""

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from dyt.tasks.detection import Detection, DetectionSpec
from dyt.tasks.detection.metric import AveragePrecision, in_original
from dyt.tasks.detection.precision import NAMES
from dyt.tasks.preparation import Preparation

READY = Preparation(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
KINDS = {"bbox": "", "segm": "mask_"}


def truth(draw: np.random.Generator, root: Path) -> None:
    """Six images in no order of ids, the last ones empty; three classes, one of which may be in no image; crowds; areas
    about the bounds of the sizes; boxes that reach over their image by a rounding.
    """
    ids = draw.permutation(6) * 7 + 3
    images, annotations = [], []
    for k, name in enumerate(ids.tolist()):
        height, width = (int(v) for v in draw.integers(60, 140, 2))
        Image.new("RGB", (width, height)).save(root / f"{k}.png")
        images.append({"id": name, "file_name": f"{k}.png", "height": height, "width": width})
        for _ in range(int(draw.integers(0, 5)) if k < 5 else 0):
            w, h = (float(v) for v in draw.choice([8, 31.9, 32, 33.3, 50], 2))
            x, y = float(draw.uniform(0, width - w + 0.4)), float(draw.uniform(0, height - h + 0.4))
            crowd = bool(draw.random() < 0.2)
            outline: Any = [[x, y, x + w, y, x + w / 2, y + h]]
            if crowd:
                pixels = np.zeros((height, width), np.uint8, order="F")
                pixels[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1] = 1
                outline = coco_mask.encode(pixels)
                outline["counts"] = outline["counts"].decode()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": name,
                    "category_id": int(draw.integers(1, 4)) * 5,
                    "bbox": [x, y, w, h],
                    "area": float(draw.choice([w * h, 1024.0, np.nextafter(1024, 2000), 9216.0])),
                    "iscrowd": int(crowd),
                    "segmentation": outline,
                }
            )
    if not annotations:
        annotations.append(
            {"id": 1, "image_id": int(ids[0]), "category_id": 5, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
            | {"segmentation": [[1, 1, 10, 1, 10, 10]]}
        )
    kinds = [{"id": 5 * k, "name": f"kind {k}"} for k in (1, 2, 3)]
    content = {"images": images, "annotations": annotations, "categories": kinds}
    (root / "instances_test.json").write_text(json.dumps(content))


def found_in(draw: np.random.Generator, target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Boxes near those of the truth and elsewhere, with few different scores, of right and wrong classes."""
    near = target["boxes"].repeat_interleave(2, 0).float()
    near = near + torch.from_numpy(draw.normal(0, 3, near.shape)).float()
    height, width = target["size"].tolist()
    corner = torch.from_numpy(draw.uniform(0, 1, (int(draw.integers(0, 4)), 2))).float() * torch.tensor([width, height])
    boxes = torch.cat([near, torch.cat([corner, corner + 20], 1)])
    boxes = boxes[torch.from_numpy(draw.permutation(len(boxes)))]
    n = len(boxes)
    labels = torch.from_numpy(draw.integers(1, 4, n))
    same = target["labels"].repeat_interleave(2)[:n] if draw.random() < 0.5 else labels[:0]
    labels[: len(same)] = same
    return {
        "boxes": boxes,
        "labels": labels,
        "scores": torch.from_numpy(draw.choice([0.3, 0.5, 0.9], n)).float(),
        "masks": torch.from_numpy(draw.uniform(0.2, 1, (n, 28, 28))).float(),
    }


def published(file: Path, results: Sequence[dict[str, Any]], kind: str) -> list[float]:
    """What pycocotools says of a file of results; of masks without their boxes, whose areas it would take."""
    dropped = "segmentation" if kind == "bbox" else "bbox"
    with redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
        rows = [{name: value for name, value in one.items() if name != dropped} for one in results]
        evaluation = COCOeval(coco, coco.loadRes(rows), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values: list[float] = evaluation.stats[:6].tolist()
    return values


@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_it_is_what_pycocotools_says_of_the_files(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    draw, root = np.random.default_rng(seed), tmp_path_factory.mktemp("coco")
    truth(draw, root)
    spec = DetectionSpec(root=str(root), masks=True)
    classes = ("kind 1", "kind 2", "kind 3")
    split = Detection().open_split(spec, "test", classes)
    ids = [image["id"] for image in json.loads((root / "instances_test.json").read_text())["images"]]
    examples = Detection().examples(spec, split, READY, training=False)
    measure, results = Detection().measure(classes, torch.device("cpu")), []
    for position in draw.permutation(len(split)).tolist():  # as several processes would see them
        target = {**examples[position, 0][1], "scale": torch.ones(2)}
        found = found_in(draw, target)
        measure.update([found], [target])
        for box, label, score, mask in zip(*(in_original(found, target)[name] for name in found), strict=True):
            x, y, right, bottom = box.tolist()
            code = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            results.append(
                {
                    "image_id": ids[position],
                    "category_id": 5 * int(label),
                    "bbox": [x, y, right - x, bottom - y],
                    "score": float(score),
                    "segmentation": {**code, "counts": code["counts"].decode()},
                }
            )
    ours = measure.compute()
    assert list(ours) == [f"{prefix}{name}" for prefix in KINDS.values() for name in NAMES]
    for kind, prefix in KINDS.items():
        for name, value in zip(NAMES, published(root / "instances_test.json", results, kind), strict=True):
            mine = ours[f"{prefix}{name}"]
            assert (mine is None) == (value == -1)
            assert mine is None or mine == pytest.approx(value, abs=1e-6)


def test_three_of_five() -> None:
    """The precision at recall 0.6, which is exact: 61 of 101 thresholds are reached."""
    boxes = torch.tensor([[10.0 * k, 0, 10 * k + 8, 8] for k in range(5)])
    target = {"boxes": boxes, "labels": torch.ones(5, dtype=torch.int64), "iscrowd": torch.zeros(5, dtype=torch.int64)}
    target |= {"size": torch.tensor([50, 50]), "scale": torch.ones(2), "area": torch.full((5,), 64.0)}
    measure = AveragePrecision()
    scores = torch.tensor([0.9, 0.8, 0.7])
    found = {"boxes": boxes[:3], "labels": target["labels"][:3], "scores": scores}
    measure.update([found], [{**target, "image": torch.tensor(0)}])
    values = measure.compute()
    assert values["map"] == pytest.approx(61 / 101, abs=1e-6)
    assert values["map_small"] == values["map"]
    assert values["map_medium"] is None
    assert values["map_large"] is None


def test_nothing_there_and_nothing_found() -> None:
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    target = {**none, "iscrowd": none["labels"], "area": torch.zeros(0), "image": torch.tensor(0)}
    target |= {"size": torch.tensor([50, 50]), "scale": torch.ones(2)}
    measure = AveragePrecision()
    measure.update([{**none, "scores": torch.zeros(0)}], [target])
    assert measure.compute() == dict.fromkeys(NAMES)
