"""sweep.json: what a search is, and whether it has tested something, after which it cannot be changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyt.config.files import parse_json
from dyt.sweeps.vtab1k import SweepError
from dyt.tasks.layouts import some
from dyt.train.state import differences, listed, write_whole

RECORD, VALIDATION, TEST = "sweep.json", "validation", "test"


def claim(out: Path, definition: Mapping[str, Any]) -> None:
    """Writes what the sweep is, in place of what was begun there.

    Raises:
        SweepError: another one there has tested something, or what is there is no record.
    """
    path = out / RECORD
    if path.is_file():
        stored = parse_json(path.read_text(encoding="utf-8"), f"'{path}'")
        if not isinstance(stored, dict) or not isinstance(stored.get("definition"), dict) or "tested" not in stored:
            raise SweepError(f"'{path}' is not the record of a sweep; remove it, or give another --out")
        changes = _changes(stored["definition"], json.loads(json.dumps(definition)))
        if stored["tested"]:
            if changes:
                raise SweepError(
                    f"'{out}' has tested what it chose, so that its grid cannot be changed: "
                    f"{listed(changes, 3)}; give another --out"
                )
            return
    elif (out / TEST).exists():
        raise SweepError(f"'{out}' has runs that were tested but no {RECORD}; give another --out")
    _write(path, definition, tested=False)


def testing(out: Path, definition: Mapping[str, Any]) -> None:
    """Writes that the test split is looked at from now on."""
    _write(out / RECORD, definition, tested=True)


def _changes(before: Any, now: Any) -> list[str]:
    """What differs in words; of points and tasks that are in one of them alone, their names."""
    found = []
    for field in ("points", "tasks"):
        old, new = before[field], now[field]
        for what, names in (("new", new.keys() - old.keys()), ("left out", old.keys() - new.keys())):
            found += [f"{what} among the {field}: {some(sorted(names))}"] if names else []
        common = [name for name in new if name in old]
        found += differences({name: old[name] for name in common}, {name: new[name] for name in common}, field)
    old, new = ({k: v for k, v in each.items() if k not in {"points", "tasks"}} for each in (before, now))
    return found + differences(old, new)


def _write(path: Path, definition: Mapping[str, Any], tested: bool) -> None:
    write_whole(path, json.dumps({"tested": tested, "definition": definition}, indent=2) + "\n")
