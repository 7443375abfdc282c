"""Refuses to release what a tag does not name: `python scripts/check_release.py v0.2.0`. Needs nothing installed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def faults(tag: str, root: Path = ROOT) -> list[str]:
    """What does not go with the tag: the version, its citation, its release notes."""
    found = []
    for file, pattern in {
        "src/dyt/__init__.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## \[(\d[^\]]*)\]$",
    }.items():
        match = re.search(pattern, (root / file).read_text(encoding="utf-8"), re.MULTILINE)
        given = match[1] if match else "no version"
        if tag != f"v{given}":
            found.append(f"the tag is {tag}, and {file} has {given}")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(faults(sys.argv[1])) or 0)
