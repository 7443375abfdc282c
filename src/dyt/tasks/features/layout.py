"""Which image files there are: below a folder, or in a list; and which of them are held out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from dyt.tasks.features.spec import FeaturesSpec
from dyt.tasks.layouts import EXTENSIONS, DataError, Split, contents_of, files, read_lines, some

TRAINING, HELD_OUT = "training", "held_out"
"""Names of the splits for which the spec has none."""


def training_name(spec: FeaturesSpec) -> str:
    """What the training split is called."""
    return TRAINING if spec.train is None else spec.train


def open_split(spec: FeaturesSpec, name: str | None) -> Split:
    """A split by its name, the measured one by default: those of the spec, or a folder or list in its root.

    Raises:
        DataError: what was found and what is expected, in one line.
    """
    root = Path(spec.root)
    if not root.is_dir():
        raise DataError(f"data.root: no directory '{root}'")
    training = training_name(spec)
    if name is None:
        name = HELD_OUT if spec.test is None else spec.test
    if name == training or (spec.test is None and name == HELD_OUT):
        kept, held = _split(spec, root)
        return _images(name, kept if name == training else held)
    return _images(name, found(root, name))


def _split(spec: FeaturesSpec, root: Path) -> tuple[list[Path], list[Path]]:
    """The training images, and those that are measured on."""
    every = below(root) if spec.train is None else found(root, spec.train)
    if spec.test is not None:
        measured = found(root, spec.test)
        if spec.train is not None:
            return every, measured
        taken = {os.path.realpath(path) for path in measured}
        kept = [path for path in every if os.path.realpath(path) not in taken]
        if not kept:
            raise DataError(f"'{root}' has no image beside those of data.test '{spec.test}'; set data.train")
        return kept, measured
    if len(every) < 2:
        raise DataError(f"'{root}' has one image, of which none can be held out; give more, or data.test")
    count = min(max(round(spec.held_out * len(every)), 1), len(every) - 1)

    def drawn(
        path: Path,
    ) -> bytes:  # of the path alone: the same on every machine, and little else moves with a new file
        below_root = Path(os.path.relpath(path, root)).as_posix()
        return hashlib.sha256(f"{spec.split_seed} {below_root}".encode("utf-8", "surrogateescape")).digest()

    held = set(sorted(every, key=drawn)[:count])
    return [path for path in every if path not in held], [path for path in every if path in held]


def found(root: Path, name: str) -> list[Path]:
    """The images of a folder or a list in root.

    Raises:
        DataError: neither is there, or no image in it.
    """
    place = root / name
    if place.is_dir():
        return below(place)
    for listing in (place, place.with_name(f"{place.name}.txt")):
        if listing.is_file():
            return _listed(root, listing)
    raise DataError(
        f"no folder and no list '{place}'; {root} has {contents_of(root)}; expected a folder of images, or a text file "
        f"with one path a line"
    )


def below(folder: Path) -> list[Path]:
    """Every image below a folder, hidden files and folders left out, sorted by path.

    Raises:
        DataError: there is none.
    """
    images = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images += [
            Path(where, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
        ]
    if not images:
        raise DataError(
            f"no images in '{folder}' ({contents_of(folder)}); expected files ending in {', '.join(sorted(EXTENSIONS))}"
        )
    return sorted(images)


def _listed(root: Path, listing: Path) -> list[Path]:
    """The images of a list: lines `path`, or `path label` as other lists have them.

    Raises:
        DataError: a line that names no file, or no line.
    """
    paths, wrong = [], []
    for number, line in enumerate(read_lines(listing), 1):
        text = line.strip()
        if not text:
            continue
        path = next((root / name for name in _names(text) if (root / name).is_file()), None)
        if path is None:
            wrong.append(f"line {number}: no file '{(root / _names(text)[-1])}'"[:200])
        else:
            paths.append(path)
    if wrong:
        raise DataError(f"{listing}: {some(wrong, '; ')}")
    if not paths:
        raise DataError(f"{listing} is empty; expected one path a line")
    return paths


def _names(text: str) -> list[str]:
    """What of a line may be the path: all of it, or what precedes numbers at its end, which are labels."""
    names, words = [text], text.split()
    while len(words) > 1 and words[-1].isdecimal():
        text, words = text[: text.rindex(words[-1])].rstrip(), words[:-1]
        names.append(text)
    return names


def _images(name: str, paths: Sequence[Path]) -> Split:
    return files(name, paths, [0] * len(paths))
