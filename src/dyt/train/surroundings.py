"""What the result of a run depends on beside its spec: the files of its data, frozen weights, processes, versions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from dyt.config.base import Spec
from dyt.families.sources import version_of
from dyt.model.dynamic import DynamicModel
from dyt.tasks.data import Data
from dyt.tasks.layouts import DataError, Split

LIBRARIES = ("dyt", "torch", "timm")


class Files(Spec):
    """The files of a split, and their labels."""

    examples: int
    """How many there are in the split."""
    bytes: int
    """Sizes of the listed files together; 0 of data without such a list."""
    names: str
    """Digest of names within the root, sizes and labels."""
    times: str
    """Digest of when the files were last modified."""


class Surroundings(Spec):
    """What a resumed run is compared with."""

    train: Files
    """Of the training split."""
    test: Files
    """Of the test split."""
    weights: str
    """Digest of the backbone's frozen tensors, wherever they came from."""
    world: int
    """Number of processes."""
    device: str
    """Kind of device: `cpu`, `cuda`."""
    versions: dict[str, str]
    """Of dyt, torch and timm."""

    def changes(self, now: Surroundings) -> tuple[list[str], list[str]]:
        """What is other now, in words: what a run is refused for unless it is accepted, and what is only told.

        Only told are another kind of device and another patch version, which promise the same results to within
        rounding: a machine's update must not stop a run of days.
        """
        refused, told = [], []
        for name in ("train", "test"):
            refused += _files(f"data.{name}", getattr(self, name), getattr(now, name))
        if self.weights != now.weights:
            refused.append("the frozen weights of the backbone (model.backbone.weights) are other ones")
        if self.world != now.world:
            refused.append(f"the number of processes was {self.world}, is {now.world}")
        if self.device != now.device:
            told.append(f"the device was {self.device}, is {now.device}")
        for library in sorted(self.versions.keys() | now.versions.keys()):
            before, present = self.versions.get(library, "unknown"), now.versions.get(library, "unknown")
            if before != present:
                kind = told if _series(before) == _series(present) else refused
                kind.append(f"{library} was {before[:40]}, is {present}")
        return refused, told


def surroundings(data: Data, root: str, model: DynamicModel, world: int, device: str) -> Surroundings:
    """Of a run whose model has just been built. Reads the sizes and times of the data's files, and not the files.

    Raises:
        DataError: a file that is gone since it was listed.
    """
    return Surroundings(
        train=_split(data.train, Path(root)),
        test=_split(data.test, Path(root)),
        weights=_weights(model),
        world=world,
        device=device,
        versions={library: version_of(library) for library in LIBRARIES},
    )


def _files(what: str, before: Files, now: Files) -> list[str]:
    if (before.examples, before.bytes) != (now.examples, now.bytes):
        was, is_ = (f"{files.examples:,} examples, {files.bytes:,} bytes" for files in (before, now))
        return [f"{what} was {was}, is {is_}"]
    if before.names != now.names:
        return [f"{what} has other file names, sizes or labels"]
    return [f"files of {what} were modified"] if before.times != now.times else []


def _split(split: Split, root: Path) -> Files:
    names, times, total = hashlib.sha256(), hashlib.sha256(), 0
    for path in _listed(split, root):
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"'{path}' cannot be read any more: {error.strerror}") from error
        within = path.relative_to(root) if path.is_relative_to(root) else path
        names.update(f"{within.as_posix()} {found.st_size}\n".encode(errors="surrogateescape"))
        times.update(f"{found.st_mtime_ns}\n".encode())
        total += found.st_size
    names.update("\n".join(map(repr, split.labels)).encode())
    for objects in getattr(split, "objects", ()):  # of detection, from its annotation file
        names.update(objects.boxes.tobytes() + objects.labels.tobytes())
    return Files(examples=len(split), bytes=total, names=names.hexdigest(), times=times.hexdigest())


def _listed(split: Split, root: Path) -> Sequence[Path]:
    """The split's files, masks as well; of data that is no files of images, all files of the root."""
    masks: Sequence[Path] = getattr(split, "masks", ())
    return (*split.paths, *masks) or sorted(path for path in root.rglob("*") if path.is_file())


def _weights(model: DynamicModel) -> str:
    """From the CRCs that were taken when it was built: what `trainable: full` trains is in the checkpoint instead."""
    digest = hashlib.sha256()
    values = {} if model.origin is None else model.origin.values
    for name, (dtype, _, crc) in sorted(values.items()):
        digest.update(f"{name} {dtype} {crc}\n".encode())
    return digest.hexdigest()


def _series(version: str) -> str:
    found = re.match(r"\d+\.\d+", version)
    return found[0] if found else version
