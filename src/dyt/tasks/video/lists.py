"""List files of videos, as Kinetics-400 and Something-Something-V2 have them, listed without decoding."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from dyt.tasks.bands import Picture, with_channels
from dyt.tasks.data import Data, numbered
from dyt.tasks.layouts import DataError, Split, by_name, contents_of, read_lines, relabelled, some
from dyt.tasks.video.decoding import VideoError, VideoWarning, decoded, frame_count, pyav
from dyt.tasks.video.sampling import span
from dyt.tasks.video.spec import VideoSpec

LINE = re.compile(r"(?P<path>\S.*?)[ \t,]+(?P<label>[0-9]{1,18})\s*")
THREADS = 8
"""That look at files at the same time: they mostly wait for the disk."""


def open_lists(spec: VideoSpec) -> Data:
    """Both splits.

    Raises:
        DataError: what was found and what is expected, in one line.
    """
    pyav()
    names = listed_classes(Path(spec.root))
    train, test = (list_split(spec, name, names) for name in (spec.train, spec.test))
    return Data(train, test, names or numbered(train, test))


def list_split(spec: VideoSpec, name: str, classes: Sequence[str] | None) -> Split:
    """The videos of a list, labelled by the names of the classes; `read` opens the first frame of one.

    With `corrupt: skip` every file is looked at, and those that cannot be used are left out, with a VideoWarning.

    Raises:
        DataError: no such list, lines of another form, labels out of range, files that are not there, by line; or
            none that can be used.
    """
    root = Path(spec.root)
    file, own = list_file(root, name), listed_classes(root)
    places = None if own is None else by_name(own, classes, root / "classes.txt")
    count = len(own) if own is not None else None if classes is None else len(classes)
    paths, labels, wrong, absent = [], [], [], []
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line)
        if match is None:
            wrong.append(f"line {number}: '{line[:60]}' is not 'path label'")
        elif count is not None and int(match["label"]) >= count:
            wrong.append(f"line {number}: label {match['label']}, but there are {count} classes")
        elif not (root / match["path"]).is_file():
            absent.append(f"line {number}: no file '{root / match['path']}'")
        else:
            paths.append(root / match["path"])
            labels.append(int(match["label"]))
    if wrong or (absent and spec.corrupt == "refuse"):
        raise DataError(f"{file}: {some(wrong + absent, '; ')}")
    listed = len(paths) + len(absent)
    if spec.corrupt == "skip":
        faults = _faults(paths, spec)
        reasons = absent + [reason for reason in faults if reason is not None]
        kept = [i for i, reason in enumerate(faults) if reason is None]
        paths, labels = [paths[i] for i in kept], [labels[i] for i in kept]
        if reasons:
            text = f"{file}: {len(reasons)} of {listed} videos are left out: {some(reasons, '; ')}"
            if not paths:
                raise DataError(f"{text}; none is left")
            warnings.warn(text, VideoWarning, stacklevel=2)
    if not paths:
        raise DataError(f"{file} is empty; expected lines 'path label'")
    made = Split(name, tuple(labels), partial(_first_frame, tuple(paths)), tuple(paths), own is not None)
    return made if places is None else relabelled(made, places)


def list_file(root: Path, name: str) -> Path:
    """root/name, or the same with `.txt` or `.csv`.

    Raises:
        DataError: none of them is there.
    """
    if not root.is_dir():
        raise DataError(f"data.root: no directory '{root}'")
    for ending in ("", ".txt", ".csv"):
        if (root / f"{name}{ending}").is_file():
            return root / f"{name}{ending}"
    raise DataError(
        f"no list '{root / name}' (.txt, .csv); {root} has {contents_of(root)}; expected lines 'path label' in it"
    )


def listed_classes(root: Path) -> tuple[str, ...] | None:
    """The names in root/classes.txt; None without such a file.

    Raises:
        DataError: it is empty.
    """
    file = root / "classes.txt"
    if not file.is_file():
        return None
    names = tuple(line.strip() for line in read_lines(file) if line.strip())
    if not names:
        raise DataError(f"{file} is empty; expected one class name per line, or no such file")
    return names


def checked(path: Path, spec: VideoSpec) -> int:
    """The number of frames of a video that can be used.

    Raises:
        VideoError: one that cannot, or is too short with `short: refuse`.
    """
    count = frame_count(path)
    if spec.short == "refuse" and count < span(spec):
        raise VideoError(f"{path}: {count} frames, and a clip needs {span(spec)}; set data.short=pad, or leave it out")
    return count


def _faults(paths: Sequence[Path], spec: VideoSpec) -> list[str | None]:
    """What speaks against each file; None for nothing."""

    def fault(path: Path) -> str | None:
        try:
            checked(path, spec)
        except VideoError as error:
            return str(error).partition(";")[0]
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(fault, paths))


def _first_frame(paths: Sequence[Path], i: int, channels: int = 3) -> Picture:
    return with_channels(Image.fromarray(decoded(paths[i], lambda count: [0])[0].numpy()), str(paths[i]), channels)
