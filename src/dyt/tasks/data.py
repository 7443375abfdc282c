"""DataSpec: which images, in which layout, prepared how; and opening it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dyt.config.base import Spec
from dyt.tasks.layouts import LAYOUTS, DataError, Layout, Split, contents_of
from dyt.tasks.sizes import Size


class DataSpec(Spec):
    """The images of a classification task.

    `root`: a directory. `format`: `folder` (root/<split>/<class>/*.jpg, classes sorted by name), `vtab` (the VTAB-1K
    lists: root/<split>.txt with lines `path label`, classes.txt optional), `hf` (a DatasetDict that `save_to_disk`
    wrote), a data set as it was published (`cifar100`, `svhn`, `food101`, `aircraft`, `pets`, `cars`; root is the
    unpacked archive's folder or the one that it lies in), or `auto`, decided by what lies in root. `train`, `test`:
    names of splits; by default train and test or val (folder), train800val200 and test (vtab), train and test or
    validation (hf), and those that a published data set is trained and tested on.

    `labels`: `one` for each image, or `several`, none included, which lists (`path label label ...`) and Hugging Face
    datasets (a list of ClassLabel) have; the head is then trained with `loss: bce`.

    `size`: pixels of a side, or (H, W); the backbone's by default, which follows where it can. `interpolation`: of the
    resize. `augment`: `none` resizes to size, the paper's VTAB-1K setting; `crop` takes a random resized crop and a
    random flip (tests on the centre crop of an image resized to 8/7 of size), the paper's full-data setting; `timm` is
    timm's training transform with `auto_augment`, `random_erasing`, `color_jitter`, and its test transform. Mean and
    standard deviation are those of the weights.

    `workers`: loader processes; None takes up to 4, and none when images are cached. The result does not depend on it.
    `cache`: keep the decoded images of `augment: none` in memory; None does so up to 2 GiB a split.
    """

    task: Literal["classification"] = "classification"
    root: str
    format: Literal["auto", "folder", "vtab", "hf", "cifar100", "svhn", "food101", "aircraft", "pets", "cars"] = "auto"
    train: str | None = None
    test: str | None = None
    labels: Literal["one", "several"] = "one"
    size: Size | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    augment: Literal["none", "crop", "timm"] = "none"
    auto_augment: str | None = None
    random_erasing: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    color_jitter: Annotated[float, Field(ge=0.0)] = 0.4
    workers: Annotated[int, Field(ge=0)] | None = None
    cache: bool | None = None

    @model_validator(mode="after")
    def _used(self) -> DataSpec:
        if self.augment != "timm":
            for name in ("auto_augment", "random_erasing", "color_jitter"):
                if getattr(self, name) != DataSpec.model_fields[name].default:
                    raise ValueError(f"{name} is of augment: timm; given augment: {self.augment}, which has none of it")
        if self.cache and self.augment != "none":
            raise ValueError(f"cache keeps images that are not augmented; given augment: {self.augment}, leave it out")
        return self


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
    names = split_name(spec, training=True), split_name(spec, training=False)
    classes = layout_of(spec).classes(Path(spec.root), names[0])
    train, test = (_opened(spec, name, classes) for name in names)
    known = classes or numbered(train, test)
    train, test = (replace(split, count=len(known)) for split in (train, test))
    return Data(train, test, known)


def open_split(spec: DataSpec, split: str | None, classes: Sequence[str]) -> Split:
    """One split, its labels as positions among these classes; `split` None is the test split.

    Raises:
        DataError: what was found and what is expected, in one line.
    """
    name = split_name(spec, training=False) if split is None else split
    return replace(_opened(spec, name, classes), count=len(classes))


def _opened(spec: DataSpec, name: str, classes: Sequence[str] | None) -> Split:
    layout = layout_of(spec)
    opened = layout.several if spec.labels == "several" else layout.split
    return opened(Path(spec.root), name, classes)


MOST_CLASSES = 1_000_000
"""That are made of labels alone."""


def numbered(*splits: Split) -> tuple[str, ...]:
    """Class names for data that has none: `0` up to the largest label.

    Raises:
        DataError: so large a label that it cannot be one.
    """
    for split in splits:
        position, label = max(enumerate(map(_largest, split.labels)), key=lambda each: each[1])
        if label >= MOST_CLASSES:
            file = f" of '{split.paths[position]}'" if split.paths else ""
            raise DataError(
                f"split '{split.name}': the label {label}{file} would ask for as many classes; if it is right, number "
                f"the classes from 0, below {MOST_CLASSES}"
            )
    return tuple(str(i) for i in range(max(max(map(_largest, split.labels)) for split in splits) + 1))


def _largest(label: int | tuple[int, ...]) -> int:
    return max(label, default=0) if isinstance(label, tuple) else label


def detect(spec: DataSpec) -> str:
    """The name of the layout that the spec names, or that lies in root.

    Raises:
        DataError: no such directory, nothing that is known, or a published data set beside something else.
    """
    root = Path(spec.root)
    if not root.is_dir():
        raise DataError(f"data.root: no directory '{root}'")
    if spec.format != "auto":
        return spec.format
    here = [layout for layout in LAYOUTS.values() if layout.is_here(root, spec.train, spec.test)]
    if not here:
        general = ", ".join(layout.expected for layout in reversed(list(LAYOUTS.values())) if not layout.published)
        published = ", ".join(name for name, layout in LAYOUTS.items() if layout.published)
        raise DataError(
            f"data.root '{root}' has {contents_of(root)}; expected {general}, or a data set as it was "
            f"published ({published})"
        )
    if len(here) > 1 and here[-1].published:
        names = " and like ".join(layout.name for layout in here)
        raise DataError(f"data.root '{root}' looks like {names}; say which with data.format")
    return here[0].name


def layout_of(spec: DataSpec) -> Layout:
    """The layout that `detect` names."""
    return LAYOUTS[detect(spec)]


def split_name(spec: DataSpec, training: bool) -> str:
    """The name of the training or of the test split: the spec's, or the layout's first that is there."""
    given = spec.train if training else spec.test
    return layout_of(spec).named(Path(spec.root), training) if given is None else given
