"""What a run leaves in its directory: its spec and metrics, and the names of the rest. Written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dyt.config.files import dump_yaml, read
from dyt.config.spec import parse
from dyt.errors import DyTError, SpecError
from dyt.train.spec import RunSpec
from dyt.writing import tidy, write_text

RUN, METRICS, CHECKPOINT, MODEL, RESULT, CLASSES = (
    "run.yaml",
    "metrics.jsonl",
    "resume.safetensors",
    "model.safetensors",
    "result.json",
    "classes.txt",
)
OLD_CHECKPOINT, RECORD = "resume.pt", "run.json"
"""What the checkpoint of 0.2 and before was called; and what a run was begun and gone on with."""
FREE = frozenset({"data.workers", "data.cache", "train.checkpoint_every", "train.timeout"})
"""Fields that may differ when a run is resumed: the result does not depend on them."""


class RunError(DyTError):
    """A run directory that cannot be used as asked."""


class Interrupted(DyTError):  # noqa: N818 - not an error of anyone's
    """The run was interrupted; the message says how to go on."""


def write_whole(path: Path, text: str) -> None:
    """Writes a text file so that at any moment either the old or the new one is there.

    Raises:
        RunError: it cannot be written.
    """
    write_text(path, text, RunError)


class RunDir:
    """The directory of one run.

    Args:
        path: made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def claim(self, run: RunSpec, resume: bool, accept: bool = False) -> None:
        """Makes the directory, which is there, this run's, or finds that it is.

        Args:
            resume: go on with a run of the same spec; False removes what an earlier run left.
            accept: let the spec of a run that has a checkpoint differ; run.yaml is then left to `become`.

        Raises:
            RunError: another run is in it, with what differs; or its checkpoint is of an earlier dyt.
        """
        if not resume:
            for name in (RESULT, MODEL, CHECKPOINT, OLD_CHECKPOINT, METRICS, CLASSES, RECORD, RUN):
                (self.path / name).unlink(missing_ok=True)
        present = [name for name in (RESULT, MODEL, CHECKPOINT, OLD_CHECKPOINT) if (self.path / name).exists()]
        if (self.path / RUN).is_file():
            differs = differences(stored_run(self.path / RUN), run.model_dump(mode="json"))
            unfinished = CHECKPOINT in present and RESULT not in present
            if differs and present and not (accept and unfinished):
                also = "--accept-changes to go on with what is changed, " if unfinished else ""
                raise RunError(
                    f"'{self.path}' has another run: {listed(differs)}; give another --out, {also}or "
                    f"--fresh to start anew in it"
                )
            if differs and not present:  # what was refused or stopped before its first checkpoint is worth nothing
                self.become(run)
        elif present:
            raise RunError(
                f"'{self.path}' has files of a run but no {RUN}; give another --out, or --fresh to start anew"
            )
        else:
            self.become(run)
        if OLD_CHECKPOINT in present and CHECKPOINT not in present and RESULT not in present:
            raise RunError(
                f"'{self.path / OLD_CHECKPOINT}' is of dyt 0.2 or before and has no checksum, so that damage could not "
                f"be told; finish the run with that dyt, or give --fresh to start anew"
            )

    def become(self, run: RunSpec) -> None:
        """Writes the spec."""
        write_whole(self.path / RUN, dump_yaml(run.model_dump(mode="json")))

    # Metrics ----------------------------------------------------------------------------------------------------------

    def check_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Compares metrics.jsonl with the checkpoint's rows; lines may be missing at its end, or be too many.

        Raises:
            RunError: a line that is another one, by its number.
        """
        path = self.path / METRICS
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
        whole = lines[:-1]  # what follows the last newline was cut off while it was written, or is nothing
        for number, (line, row) in enumerate(zip(whole, rows, strict=False), 1):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                found = None
            if found != row:
                raise RunError(
                    f"line {number} of '{path}' is not what the run wrote; remove the file, and {CHECKPOINT} has it "
                    f"written anew"
                )

    def put_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes these rows alone; those of epochs that are going to be run again are dropped."""
        write_whole(self.path / METRICS, "".join(f"{json.dumps(row)}\n" for row in rows))

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Appends one line, in one write."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(row)}\n")

    def forget(self) -> None:
        """Removes the resume checkpoint of a run that is finished, and what a kill may have left of writing one."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)
        tidy(self.path / CHECKPOINT)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`field: was a, is b` for every field of plain data that differs and matters."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [line for k in keys for line in differences(old.get(k), new.get(k), f"{path}.{k}".lstrip("."))]
    return [] if old == new or path in FREE else [f"{path} was {old}, is {new}"]


def listed(lines: Sequence[str], most: int = 6) -> str:
    """The first of these lines as one, each cut to a bearable length."""
    shown = [line if len(line) <= 160 else f"{line[:157]}..." for line in lines[:most]]
    return "; ".join([*shown, *([f"{len(lines) - most} more"] if len(lines) > most else [])])


def stored_run(path: Path) -> dict[str, Any]:
    """A run.yaml as plain data, with the defaults of fields that were not there when it was written.

    One that is no valid run any more is given as it is written, so that what differs can be told.
    """
    return with_defaults(read(path))


def with_defaults(plain: dict[str, Any]) -> dict[str, Any]:
    """A run's plain data with the defaults of fields that it lacks; as it is where it is no valid run any more."""
    try:
        return parse(RunSpec, plain).model_dump(mode="json")
    except SpecError:
        return plain


def run_of(model: Path) -> RunSpec | None:
    """The run.yaml beside a saved model, or None.

    Raises:
        SpecError: one that does not validate.
    """
    path = model.parent / RUN
    return parse(RunSpec, read(path)) if path.is_file() else None
