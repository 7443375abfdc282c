"""A tiny detection task in COCO's layout: bright boxes of two colours on dark ground; one image in four is empty."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = ((220, 40, 40), (40, 200, 60))
IDS = (7, 3)
"""Category ids as files have them: neither in order nor without gaps."""


def content(split: str, count: int, seed: int = 0) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The JSON of a split, and its pixels."""
    rng = np.random.default_rng(seed)
    images, annotations, pictures = [], [], []
    for i in range(count):
        height, width = (40, 64) if i % 2 else (64, 48)
        pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        images.append({"id": i + 1, "file_name": f"{split}{i}.png", "width": width, "height": height})
        for kind in () if i % 4 == 3 else (0, 1):
            w, h = (int(v) for v in rng.integers(12, 20, 2))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            pixels[y : y + h, x : x + w] = COLOURS[kind]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": IDS[kind],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        pictures.append(pixels)
    kinds = [{"id": IDS[0], "name": "red"}, {"id": IDS[1], "name": "green"}]
    return {"images": images, "annotations": annotations, "categories": kinds}, pictures


def write(root: Path, train: int = 8, test: int = 4) -> Path:
    """root/images/*.png, root/instances_train.json, root/instances_test.json."""
    (root / "images").mkdir(parents=True)
    for seed, (split, count) in enumerate((("train", train), ("test", test))):
        listed, pictures = content(split, count, seed)
        (root / f"instances_{split}.json").write_text(json.dumps(listed))
        for image, pixels in zip(listed["images"], pictures, strict=True):
            Image.fromarray(pixels).save(root / "images" / image["file_name"])
    return root
