"""`hf`: a DatasetDict that Hugging Face's `save_to_disk` wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

from dyt.tasks.bands import Picture, open_picture
from dyt.tasks.layouts.base import DataError, Layout, Split, by_name, relabelled, some


class HuggingFace(Layout):
    """A Hugging Face dataset on disk, with one image and one label column."""

    name: ClassVar[str] = "hf"
    train: ClassVar[tuple[str, ...]] = ("train",)
    test: ClassVar[tuple[str, ...]] = ("test", "validation")
    choosing: ClassVar[tuple[tuple[str, str, str], ...]] = (("train", "validation", "train+validation"),)
    expected: ClassVar[str] = "a Hugging Face dataset on disk (dataset_dict.json)"
    published: ClassVar[bool] = False

    def has(self, root: Path, split: str) -> bool:
        return split in hf_load(root)

    def is_here(self, root: Path, train: str | None, test: str | None) -> bool:
        return (root / "dataset_dict.json").is_file()

    def classes(self, root: Path, split: str) -> tuple[str, ...] | None:
        table, _, label = _columns(root, split)
        return _names(table.features[label])

    def split(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        return self._opened(root, split, classes, several=False)

    def several(self, root: Path, split: str, classes: Sequence[str] | None) -> Split:
        return self._opened(root, split, classes, several=True)

    def _opened(self, root: Path, split: str, classes: Sequence[str] | None, several: bool) -> Split:
        table, image, label = _columns(root, split)
        labels = table[label][:]
        lists = [y for y in labels if isinstance(y, list)]
        if len(lists) != (len(labels) if several else 0):
            raise DataError(
                f"'{root}', split '{split}': column {label} has {len(lists)} lists in {len(labels)} rows; "
                f"data.labels is {'several: expected a list in each' if several else 'one; set it to several'}"
            )
        own = self.classes(root, split)
        known = own or classes
        each = [y for row in labels for y in row] if several else labels
        bad = [y for y in each if not isinstance(y, int) or y < 0 or (known is not None and y >= len(known))]
        if bad:
            raise DataError(f"'{root}', split '{split}': {len(bad)} bad labels ({some([repr(y) for y in bad])})")
        if not labels:
            raise DataError(f"'{root}', split '{split}' is empty")
        encoded = table.cast_column(image, type(table.features[image])(decode=False))
        kept = tuple(tuple(sorted(set(row))) for row in labels) if several else tuple(labels)
        made = Split(split, kept, partial(_image, encoded, image, f"{root} {split}"), named=own is not None)
        return made if own is None else relabelled(made, by_name(own, classes, root))


def _names(feature: Any) -> tuple[str, ...] | None:
    """Of a ClassLabel, or a list of them; None of anything else."""
    inner = getattr(feature, "feature", feature)
    return tuple(inner.names) if hasattr(inner, "names") else None


def hf_load(root: Path) -> Any:
    """The DatasetDict that `save_to_disk` wrote.

    Raises:
        DataError: `datasets` is not installed, or no such data.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"'{root}' is a Hugging Face dataset; to read it: pip install \"dyt[hf]\"") from error
    try:
        loaded = datasets.load_from_disk(str(root))
    except (OSError, ValueError, TypeError, KeyError) as error:  # the last two of JSON that is not what it writes
        reason = " ".join(str(error).split())
        raise DataError(
            f"{_damaged(root)} cannot be read as part of a Hugging Face dataset ({reason}); write '{root}' again with "
            f"save_to_disk"
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        raise DataError(f"'{root}' is one dataset; expected a DatasetDict with a training and a test split")
    return loaded


def _damaged(root: Path) -> Path:
    """The first of its files that cannot be read by itself; root where each can."""
    import pyarrow

    for file in sorted(root.rglob("*")):
        try:
            if file.suffix == ".json":
                json.loads(file.read_bytes())
            elif file.suffix == ".arrow":
                with pyarrow.memory_map(str(file)) as content:
                    pyarrow.ipc.open_stream(content).read_all()
        except (OSError, ValueError):
            return file
    return root


def _columns(root: Path, split: str) -> tuple[Any, str, str]:
    """The split's table, its image column and its label column."""
    loaded = hf_load(root)
    import datasets

    if split not in loaded:
        raise DataError(f"'{root}' has no split '{split}'; it has {', '.join(loaded)}")
    table = loaded[split]
    image = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    named = [name for name, feature in table.features.items() if _names(feature) is not None]
    label = named or [name for name in ("label", "labels") if name in table.features]
    if len(image) != 1 or len(label) != 1:
        raise DataError(
            f"'{root}', split '{split}': columns {', '.join(table.features)}; expected one Image column and one "
            f"ClassLabel column (or an integer column named label)"
        )
    return table, image[0], label[0]


def _image(table: Any, column: str, name: str, i: int, channels: int = 3) -> Picture:
    value, name = table[i][column], f"{name}, row {i}"
    if value is None or (value["bytes"] is None and value["path"] is None):
        raise DataError(f"{name}: no image; leave the row out")
    if value["bytes"] is None:
        return open_picture(value["path"], channels, f"{name} ({value['path']})")
    return open_picture(BytesIO(value["bytes"]), channels, name)
