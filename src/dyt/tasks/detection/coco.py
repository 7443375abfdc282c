"""COCO's JSON: which file and images a split has, read and checked without decoding an image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dyt.errors import DyTError
from dyt.tasks.bands import Picture, open_picture, size_of
from dyt.tasks.detection.outlines import FAR, Objects, is_number, wrong_outline
from dyt.tasks.detection.spec import DetectionSpec
from dyt.tasks.layouts import DataError, Split, contents_of, some

TRAINING, TESTING = ("train", "train2017"), ("test", "val", "val2017")
SLACK = 1.0
"""Pixels by which a box may reach over its image, by rounding; it is cut."""


@dataclass(frozen=True)
class ObjectSplit(Split):
    """A split whose images have objects; `labels` are how many each has."""

    objects: Sequence[Objects] = ()


def annotation_file(spec: DetectionSpec, split: str | None, training: bool) -> Path:
    """The annotation file of a split; of the spec's training or test split when none is named.

    Raises:
        DataError: no such directory or file.
    """
    root = Path(spec.root)
    if not root.is_dir():
        raise DataError(f"data.root: no directory '{root}'")
    given = split or (spec.train if training else spec.test)
    names = (TRAINING if training else TESTING) if given is None else (given,)
    for name in names:
        for path in (root / name, root / f"instances_{name}.json", root / "annotations" / f"instances_{name}.json"):
            if path.is_file():
                return path
    raise DataError(
        f"no annotations of {' or '.join(names)} in '{root}', which has {contents_of(root)}; expected COCO's "
        f"instances_{names[0]}.json there or in annotations/"
    )


def categories(file: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """The categories' names by id, in the order of ids.

    Raises:
        DataError: none, or one without an id or a name, or two of one name.
    """
    listed = content["categories"]
    sound = [c for c in listed if isinstance(c, dict) and type(c.get("id")) is int and isinstance(c.get("name"), str)]
    names = [c["name"] for c in sound]
    if (
        not listed
        or len(sound) != len(listed)
        or len(set(names)) != len(names)
        or len({c["id"] for c in sound}) < len(sound)
    ):
        raise DataError(f"{file}: categories must be a list of {{id, name}}, ids and names all different")
    return {c["id"]: c["name"] for c in sorted(sound, key=lambda c: int(c["id"]))}


def content_of(file: Path) -> dict[str, Any]:
    """The lists `images`, `annotations` and `categories` of a file.

    Raises:
        DataError: not JSON, or without them.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = f"not JSON: {error}" if file.stat().st_size else "an empty file"
        raise DataError(
            f"{file} cannot be read ({reason}); expected COCO's instances; download or write it again"
        ) from error
    missing = [
        name
        for name in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(name), list)
    ]
    if missing:
        raise DataError(f"{file} has no list {', '.join(missing)}; expected COCO's images, annotations, categories")
    made: dict[str, Any] = content
    return made


def coco_split(spec: DetectionSpec, file: Path, content: Mapping[str, Any], classes: Sequence[str]) -> ObjectSplit:
    """The images of a file, all of them, and their objects.

    Raises:
        DataError: images that are not there; annotations of unknown images or categories, or whose box is none, or
            without an outline where they are read; no object at all. By name, in one line.
    """
    entries = _images(file, content)
    positions = {each["id"]: i for i, each in enumerate(entries)}
    names = categories(file, content)
    strange = [name for name in names.values() if name not in classes]
    if strange:
        raise DataError(
            f"{file}: categories {some(strange)} are not among the {len(classes)} known classes ({some(classes)}); "
            f"they are told apart by their names"
        )
    label = {i: list(classes).index(name) for i, name in names.items()}
    rows: list[list[tuple[Any, ...]]] = [[] for _ in entries]
    wrong: list[str] = []
    seen: set[Any] = set()
    for n, one in enumerate(content["annotations"]):
        name = _id(one, "id")
        try:
            if name is not None and name in seen:
                raise DyTError("has the id of an earlier one")
            seen.add(name)
            place = positions.get(_id(one, "image_id"))
            if place is None:
                raise DyTError("is of no image of this file")
            row = _row(one, entries[place], label, spec)
        except DyTError as error:
            wrong.append(f"annotation {f'number {n}' if name is None else name} {error}")
            continue
        if row is not None:
            rows[place].append(row)
    if wrong:
        raise DataError(f"{file}: {some(wrong, '; ')}; mend these annotations, or leave them out")
    if not any(rows):
        raise DataError(f"{file} has no object in any image; there is nothing to train or to measure")
    folder = _folder(spec, file, entries[0]["file_name"])
    paths = tuple(folder / each["file_name"] for each in entries)
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        raise DataError(f"{file}: {len(absent)} images are not there ({some(absent)})")
    by_id = sorted(range(len(entries)), key=lambda i: (isinstance(entries[i]["id"], str), entries[i]["id"]))
    places = {i: place for place, i in enumerate(by_id)}
    objects = tuple(
        _objects(entry, places[i], row, spec.masks) for i, (entry, row) in enumerate(zip(entries, rows, strict=True))
    )
    read = partial(_opened, paths, tuple(each.size for each in objects))
    return ObjectSplit(file.stem, tuple(len(row) for row in rows), read, paths, objects=objects)


def _images(file: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = content["images"]
    bad = [
        n
        for n, each in enumerate(entries)
        if not isinstance(each, dict)
        or type(each.get("id")) not in {int, str}
        or not isinstance(each.get("file_name"), str)
        or any(type(each.get(side)) is not int or each[side] < 1 for side in ("width", "height"))
    ]
    if bad:
        raise DataError(
            f"{file}: {len(bad)} of its images, the first number {bad[0]}, lack id, file_name, or width and height in "
            f"pixels"
        )
    if not entries:
        raise DataError(f"{file} lists no images")
    if len({each["id"] for each in entries}) < len(entries):
        raise DataError(f"{file}: two images have the same id")
    return entries


def _id(one: Any, field: str) -> Any:
    """What a field that refers to something has; None without one."""
    value = one.get(field) if isinstance(one, dict) else None
    return value if isinstance(value, (int, float, str)) else None


def _row(
    one: Mapping[str, Any], image: Mapping[str, Any], label: Mapping[int, int], spec: DetectionSpec
) -> tuple[Any, ...] | None:
    """(box, given, label, crowd, area, outline) of an annotation; None for one to leave out. Raises what is wrong."""
    category = _id(one, "category_id")
    if category not in label:
        raise DyTError(f"has the unknown category {str(one.get('category_id'))[:60]}")
    given = one.get("bbox")
    if not isinstance(given, list) or len(given) != 4 or not all(map(is_number, given)):
        raise DyTError(f"has the box {str(given)[:60]}, not four numbers of pixels")
    x, y, w, h = given
    width, height, name = image["width"], image["height"], image["file_name"]
    over = max(-x, -y, x + w - width, y + h - height)
    box = (min(max(x, 0.0), width), min(max(y, 0.0), height), min(x + w, width), min(y + h, height))
    crowd, outline = one.get("iscrowd", 0), one.get("segmentation")
    if crowd not in (0, 1):
        raise DyTError(f"has iscrowd {str(crowd)[:60]}, neither 0 nor 1")
    if not (w > 0 and h > 0 and box[2] > box[0] and box[3] > box[1]):
        if spec.wrong_boxes == "leave_out":
            return None
        raise DyTError(f"has a box of no area in the {width} x {height} image {name}: {given}")
    if not over <= SLACK and spec.wrong_boxes == "refuse":
        raise DyTError(f"has a box that reaches out of the {width} x {height} image {name}: {given}")
    fault = wrong_outline(outline, height, width) if spec.masks else None
    if fault is not None:
        raise DyTError(f"has {fault}")
    area = one.get("area")
    if area is None:
        area = (box[2] - box[0]) * (box[3] - box[1])
    if type(area) not in {int, float} or not 0 <= area <= FAR**2:
        raise DyTError(f"has the area {str(area)[:60]}, not a number of pixels")
    return box, given, label[category], bool(crowd), area, outline


def _objects(image: Mapping[str, Any], order: int, rows: Sequence[tuple[Any, ...]], outlines: bool) -> Objects:
    return Objects(
        (image["height"], image["width"]),
        np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4),
        np.array([row[2] for row in rows], dtype=np.int64),
        np.array([row[3] for row in rows], dtype=bool),
        np.array([row[4] for row in rows], dtype=np.float64),
        order,
        tuple(row[5] for row in rows) if outlines else (),
    )


def _folder(spec: DetectionSpec, file: Path, first: str) -> Path:
    root = Path(spec.root)
    if spec.images is not None:
        return root / spec.images
    split = file.stem.removeprefix("instances_")
    return next(
        (d for d in (root / split, root / "images" / split, root / "images", root) if (d / first).is_file()), root
    )


def _opened(paths: Sequence[Path], sizes: Sequence[tuple[int, int]], i: int, channels: int = 3) -> Picture:
    image = open_picture(paths[i], channels)
    height, width = size_of(image)
    if (height, width) != sizes[i]:
        raise DataError(
            f"{paths[i]} is {width} x {height} px, its annotations say {sizes[i][1]} x {sizes[i][0]}; take "
            f"the image that was annotated, or mend width and height"
        )
    return image
