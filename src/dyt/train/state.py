"""What a run leaves in its directory: spec, metrics, resume checkpoint. Written whole or not at all."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dyt.config.files import dump_yaml, read
from dyt.config.spec import parse
from dyt.errors import DyTError, SpecError
from dyt.train.spec import RunSpec
from dyt.writing import whole, write_text

RUN, METRICS, CHECKPOINT, MODEL, RESULT, CLASSES = (
    "run.yaml",
    "metrics.jsonl",
    "resume.pt",
    "model.safetensors",
    "result.json",
    "classes.txt",
)
FREE = frozenset({"data.workers", "data.cache", "train.checkpoint_every"})
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

    def claim(self, run: RunSpec, resume: bool) -> None:
        """Makes the directory this run's, or finds that it is.

        Args:
            resume: go on with a run of the same spec; False removes what an earlier run left.

        Raises:
            RunError: another run is in it, with what differs; or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run directory '{self.path}': {error.strerror}") from error
        if not resume:
            for name in (RESULT, MODEL, CHECKPOINT, METRICS, CLASSES, RUN):
                (self.path / name).unlink(missing_ok=True)
        if (self.path / RUN).is_file():
            differs = differences(stored_run(self.path / RUN), run.model_dump(mode="json"))
            begun = any((self.path / name).exists() for name in (RESULT, MODEL, CHECKPOINT))
            if differs and begun:
                raise RunError(
                    f"'{self.path}' has another run: {'; '.join(differs)}; give another --out, or "
                    f"--fresh to start anew in it"
                )
            if differs:  # what was refused or stopped before its first checkpoint leaves nothing worth keeping
                write_whole(self.path / RUN, dump_yaml(run.model_dump(mode="json")))
        elif any((self.path / name).exists() for name in (RESULT, MODEL, CHECKPOINT)):
            raise RunError(
                f"'{self.path}' has files of a run but no {RUN}; give another --out, or --fresh to start anew"
            )
        else:
            write_whole(self.path / RUN, dump_yaml(run.model_dump(mode="json")))

    # Metrics ----------------------------------------------------------------------------------------------------------

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last line that was cut off is left out."""
        path = self.path / METRICS
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def keep_metrics(self, epochs: int) -> None:
        """Drops rows of epochs that are going to be run again."""
        rows = [row for row in self.metrics() if row["epoch"] <= epochs]
        write_whole(self.path / METRICS, "".join(f"{json.dumps(row)}\n" for row in rows))

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Appends one line, in one write."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(row)}\n")

    # The resume checkpoint --------------------------------------------------------------------------------------------

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes the resume checkpoint; plain values and tensors only.

        Raises:
            RunError: it cannot be written; the one before is there.
        """
        with whole(self.path / CHECKPOINT, RunError) as draft, draft.open("wb") as file:
            torch.save(dict(state), file)

    def saved(self) -> dict[str, Any] | None:
        """The resume checkpoint, or None.

        Raises:
            RunError: a file that is not one, or holds more than plain values and tensors.
        """
        path = self.path / CHECKPOINT
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
            raise RunError(f"'{path}' is not a resume checkpoint; give --fresh to start anew") from error
        return state

    def forget(self) -> None:
        """Removes the resume checkpoint of a run that is finished."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`field: was a, is b` for every field of plain data that differs and matters."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [line for k in keys for line in differences(old.get(k), new.get(k), f"{path}.{k}".lstrip("."))]
    return [] if old == new or path in FREE else [f"{path} was {old}, is {new}"]


def stored_run(path: Path) -> dict[str, Any]:
    """A run.yaml as plain data, with the defaults of fields that were not there when it was written.

    One that is no valid run any more is given as it is written, so that what differs can be told.
    """
    plain = read(path)
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
