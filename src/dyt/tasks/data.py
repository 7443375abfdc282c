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
from dyt.tasks.split_names import composed, pieces


class DataSpec(Spec):
    """The images of a classification task. Mean and standard deviation are those of the backbone's weights."""

    task: Literal["classification"] = "classification"
    """The task whose data it is; it decides which other fields there are."""
    root: str
    """Directory of the data. Of a published data set: the unpacked archive's folder, or the one in which it lies."""
    format: Literal["auto", "folder", "vtab", "hf", "cifar100", "svhn", "food101", "aircraft", "pets", "cars"] = "auto"
    """Layout of `root`. `folder`: `root/<split>/<class>/*.jpg`, classes sorted by name; `vtab`: the lists of VTAB-1K,
    `root/<split>.txt` with lines `path label`, classes.txt optional; `hf`: a DatasetDict written by `save_to_disk`; the
    others: a data set as it was published; `auto`: detected from what lies in `root`."""
    train: str | None = None
    """Name of the training split. Null takes the layout's: `train` (folder, hf), `train800val200` (vtab), or what a
    published data set is trained on. `train[0-80%]` is a part of a split, drawn with a fixed seed; `train+val` is
    both."""
    test: str | None = None
    """Name of the test split, or parts as in `train`. Null takes the layout's: `test` or `val` (folder), `test` (vtab),
    `test` or `validation` (hf), or what a published data set is tested on."""
    labels: Literal["one", "several"] = "one"
    """Labels per image: `one`, or `several`, none included, which lists (`path label label ...`) and Hugging Face
    datasets (a list of ClassLabel) can have; the head then needs `loss: bce`."""
    size: Size | None = None
    """Size of the images in pixels: one side, or `[height, width]`. Null takes the backbone's, which otherwise follows
    where it can."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    """Interpolation of the resize."""
    augment: Literal["none", "crop", "timm"] = "none"
    """Preparation of the images. `none`: resize to `size`, the paper's setting on VTAB-1K; `crop`: random resized crop
    and flip in training, and at inference the centre crop of an image resized to 8/7 of `size`, the paper's setting on
    full data sets; `timm`: timm's training and test transforms, with the three fields below."""
    auto_augment: str | None = None
    """With `augment: timm`: a policy of timm's, such as `rand-m9-mstd0.5`. Null for none."""
    random_erasing: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """With `augment: timm`: probability with which a rectangle of an image is erased."""
    color_jitter: Annotated[float, Field(ge=0.0)] = 0.4
    """With `augment: timm`: strength of the colour jitter; timm ignores it with most policies of
    `auto_augment`."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Number of loader processes; the result does not depend on it. Null takes up to 4, and none when images are
    cached."""
    cache: bool | None = None
    """Whether the decoded images of `augment: none` are kept in memory. Null does so up to 2 GiB per split."""

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
    classes = classes_of(spec, names[0])
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
    layout, root = layout_of(spec), Path(spec.root)
    opened = layout.several if spec.labels == "several" else layout.split
    parts = pieces(name, lambda given: layout.has(root, given))
    return composed(name, parts, lambda given: opened(root, given, classes))


def classes_of(spec: DataSpec, name: str) -> tuple[str, ...] | None:
    """The names of the classes in a split, or in the first of its parts; None where the data has none.

    Raises:
        DataError: what was found and what is expected, in one line.
    """
    layout, root = layout_of(spec), Path(spec.root)
    return layout.classes(root, pieces(name, lambda given: layout.has(root, given))[0].name)


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
    given = (spec.train, spec.test)
    first = tuple(None if name is None else pieces(name)[0].name for name in given)
    here = [each for each in LAYOUTS.values() if each.is_here(root, *given) or each.is_here(root, *first)]
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
