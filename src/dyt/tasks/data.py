"""DataSpec: which images, in which layout, prepared how; and opening it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dyt.slots import Spec
from dyt.tasks import layouts
from dyt.tasks.layouts import DataError, Split

Layout = Literal["folder", "vtab", "hf"]
DEFAULT_SPLITS: dict[Layout, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "folder": (("train",), ("test", "val")),
    "vtab": (("train800val200",), ("test",)),
    "hf": (("train",), ("test", "validation")),
}
"""(training, test) split names of each layout; the first that is there."""


class DataSpec(Spec):
    """The images of a classification task.

    `root`: a directory. `format`: `folder` (root/<split>/<class>/*.jpg, classes sorted by name), `vtab` (the VTAB-1K
    lists: root/<split>.txt with lines `path label`, classes.txt optional), `hf` (a DatasetDict that `save_to_disk`
    wrote), or `auto`, told from what lies in root. `train`, `test`: names of splits; by default train and test or val
    (folder), train800val200 and test (vtab), train and test or validation (hf).

    `size`: pixels of a side; the backbone's by default. `interpolation`: of the resize. `augment`: `none` resizes to
    size x size, the paper's VTAB-1K setting; `crop` takes a random resized crop and a random flip (tests on the
    centre crop of an image resized to 8/7 of size), the paper's full-data setting; `timm` is timm's training
    transform with `auto_augment`, `random_erasing`, `color_jitter`, and its test transform. Mean and standard
    deviation are those of the weights.

    `workers`: loader processes; None takes up to 4, and none when images are cached. The result does not depend on it.
    `cache`: keep the decoded images of `augment: none` in memory; None does so up to 2 GiB a split.
    """

    task: Literal["classification"] = "classification"
    root: str
    format: Literal["auto", "folder", "vtab", "hf"] = "auto"
    train: str | None = None
    test: str | None = None
    size: Annotated[int, Field(ge=1)] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    augment: Literal["none", "crop", "timm"] = "none"
    auto_augment: str | None = None
    random_erasing: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    color_jitter: Annotated[float, Field(ge=0.0)] = 0.4
    workers: Annotated[int, Field(ge=0)] | None = None
    cache: bool | None = None


@dataclass(frozen=True)
class Data:
    """Both splits of a task.

    Attributes:
        train, test: the splits.
        classes: the names of the classes; their numbers where the data does not name them.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]


def open_data(spec: DataSpec) -> Data:
    """Lists both splits and checks files and labels, without decoding images.

    Raises:
        DataError: what was found and what is expected, in one line.
    """
    root, layout = Path(spec.root), detect(spec)
    names = split_name(spec, training=True), split_name(spec, training=False)
    if layout == "folder":
        classes: tuple[str, ...] = layouts.folder_classes(root, names[0])
        train, test = (layouts.folder_split(root, name, classes) for name in names)
        return Data(train, test, classes)
    if layout == "vtab":
        given = _listed_classes(root)
        train, test = (layouts.list_split(root, name, given) for name in names)
    else:
        loaded = layouts.hf_load(root)
        train, given = layouts.hf_split(loaded, root, names[0], None)
        test, _ = layouts.hf_split(loaded, root, names[1], given)
    return Data(train, test, given or numbered(train, test))


def open_split(spec: DataSpec, split: str | None, classes: Sequence[str]) -> Split:
    """One split, its labels as positions among these classes; `split` None is the test split.

    Raises:
        DataError: what was found and what is expected, in one line.
    """
    root, layout = Path(spec.root), detect(spec)
    name = split_name(spec, training=False) if split is None else split
    if layout == "folder":
        return layouts.folder_split(root, name, classes)
    if layout == "vtab":
        return layouts.list_split(root, name, classes)
    return layouts.hf_split(layouts.hf_load(root), root, name, classes)[0]


def numbered(*splits: Split) -> tuple[str, ...]:
    """Class names for data that has none: `0` up to the largest label."""
    return tuple(str(i) for i in range(max(max(split.labels) for split in splits) + 1))


def detect(spec: DataSpec) -> Layout:
    """The layout that the spec names, or that lies in root.

    Raises:
        DataError: no such directory, or nothing that is known.
    """
    root = Path(spec.root)
    if not root.is_dir():
        raise DataError(f"data.root: no directory '{root}'")
    if spec.format != "auto":
        return spec.format
    if (root / "dataset_dict.json").is_file():
        return "hf"
    if any((root / f"{name}.txt").is_file() for name in (spec.train or "train800val200", spec.test or "test")):
        return "vtab"
    if any((root / name).is_dir() for name in (spec.train or "train", spec.test or "test", "val")):
        return "folder"
    raise DataError(
        f"data.root '{root}' has {layouts.found(root)}; expected class folders "
        f"(train/<class>/*.jpg and test/ or val/), VTAB-1K lists (train800val200.txt and test.txt), or a "
        f"Hugging Face dataset on disk (dataset_dict.json)"
    )


def split_name(spec: DataSpec, training: bool) -> str:
    """The name of the training or of the test split: the spec's, or the layout's first that is there."""
    given = spec.train if training else spec.test
    if given is not None:
        return given
    root, layout = Path(spec.root), detect(spec)
    names = DEFAULT_SPLITS[layout][0 if training else 1]
    if layout == "hf":
        present = layouts.hf_load(root)
        return next((name for name in names if name in present), names[0])
    ending = "" if layout == "folder" else ".txt"
    return next((name for name in names if (root / f"{name}{ending}").exists()), names[0])


def _listed_classes(root: Path) -> tuple[str, ...] | None:
    file = root / "classes.txt"
    if not file.is_file():
        return None
    names = tuple(line.strip() for line in layouts.read_lines(file) if line.strip())
    if not names:
        raise DataError(f"{file} is empty; expected one class name per line, or no such file")
    return names
