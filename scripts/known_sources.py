"""Writes the digests of timm's and transformers' methods that families were written for, as they are installed here.

Run it in an environment whose versions pass `pytest tests/families tests/laws`, and commit what it writes: from then on
these versions are built on. What other versions have stays in the table; methods that no family names any more go.

    python scripts/known_sources.py            # add the installed versions
    python scripts/known_sources.py --check    # exit code 1 where the table lacks one of them
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import dyt
from dyt.families import sources

TABLE = Path(sources.__file__).with_name(sources.TABLE)


def found() -> dict[str, str]:
    """{method: digest} of what is installed, for every family of this library."""
    own = [family for name, family in dyt.registry.families.items() if dyt.registry.families.origin(name) == "dyt"]
    read = dict(pair for family in own for pair in sources.installed(family))
    if missing := sorted(name for name, value in read.items() if value is None):
        sys.exit(f"no source can be read of {', '.join(missing)}")
    return {name: value for name, value in read.items() if value is not None}


def merged(table: dict[str, dict[str, list[str]]], here: dict[str, str]) -> dict[str, dict[str, list[str]]]:
    """The table with the installed versions, each under one digest of a method; without methods that are not named."""
    new: dict[str, dict[str, list[str]]] = {}
    for name, value in sorted(here.items()):
        version = sources.version_of(name.partition(".")[0])
        others = {key: [v for v in versions if v != version] for key, versions in table.get(name, {}).items()}
        others.setdefault(value, []).append(version)
        new[name] = {key: sorted(versions, key=sources.order) for key, versions in sorted(others.items()) if versions}
    return new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where something is not known")
    check = parser.parse_args().check
    here = found()
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    unknown = sorted(name for name, value in here.items() if value not in table.get(name, {}))
    print("\n  ".join((f"{len(here)} methods, {len(unknown)} of them not known", *unknown)))
    if check:
        sys.exit(1 if unknown else 0)
    installed = {name.partition(".")[0] for name in here}
    kept = {name: value for name, value in table.items() if name.partition(".")[0] not in installed}
    TABLE.write_text(f"{json.dumps(dict(sorted((kept | merged(table, here)).items())), indent=1)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
