"""run.json: what a run was begun with, and each time that it was gone on with, what had changed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from dyt.config.base import Spec
from dyt.train.state import RunError, write_whole
from dyt.train.surroundings import Surroundings


class Resumed(Spec):
    """One time that a run was gone on with."""

    at: str
    """When, UTC."""
    step: int
    """Number of steps that were done."""
    accepted: tuple[str, ...] = ()
    """What had changed and was accepted with `--accept-changes`."""
    told: tuple[str, ...] = ()
    """What had changed and needs no acceptance: patch versions, the kind of device."""


class Record(Spec):
    """The whole of run.json."""

    begun: str
    """When, UTC."""
    surroundings: Surroundings
    """What it was begun with."""
    resumed: tuple[Resumed, ...] = ()
    """Each time that it was gone on with."""


def begin(path: Path, surroundings: Surroundings) -> None:
    """Writes the record of a run that begins."""
    _write(path, Record(begun=_now(), surroundings=surroundings))


def go_on(path: Path, was: Surroundings, step: int, accepted: list[str], told: list[str]) -> None:
    """Adds a resumption; a record that is not there is begun anew.

    Raises:
        RunError: a file that is no record.
    """
    if path.is_file():
        try:
            record = Record.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise RunError(f"'{path}' is not the record of a run; remove it, and it is begun anew") from error
    else:
        record = Record(begun="unknown", surroundings=was)
    again = Resumed(at=_now(), step=step, accepted=tuple(accepted), told=tuple(told))
    _write(path, record.model_copy(update={"resumed": (*record.resumed, again)}))


def _write(path: Path, record: Record) -> None:
    write_whole(path, record.model_dump_json(indent=2) + "\n")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
