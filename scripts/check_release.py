"""Refuses to release what a tag does not name: `python scripts/check_release.py v0.2.0`. Needs nothing installed.

The tag is `v` and the version. The version is that of the package, of the citation, and of the newest release notes,
which have a date, and leave nothing under *Unreleased*.
"""

from __future__ import annotations

import re
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
TAG = re.compile(r"v\d+\.\d+\.\d+((a|b|rc)\d+)?")
NOTES = re.compile(r"^## \[(?P<version>\d[^\]]*)\](?P<date>.*)$", re.MULTILINE)


def faults(tag: str, root: Path = ROOT) -> list[str]:
    """What does not go with the tag: its form, the version, its citation, its release notes and their date."""
    found = [] if TAG.fullmatch(tag) else [f"the tag is {tag!r}; allowed: v1.2.3, or v1.2.3rc1"]
    texts = {
        file: (root / file).read_text(encoding="utf-8")
        for file in ("src/dyt/__init__.py", "CITATION.cff", "CHANGELOG.md")
    }
    version = re.search(r'^__version__ = "(.+)"$', texts["src/dyt/__init__.py"], re.MULTILINE)
    cited = re.search(r"^version: (.+)$", texts["CITATION.cff"], re.MULTILINE)
    notes = NOTES.search(texts["CHANGELOG.md"])
    for file, match in zip(texts, (version, cited, notes), strict=True):
        given = match[1] if match else "no version"
        if tag != f"v{given}":
            found.append(f"the tag is {tag}, and {file} has {given}")
    if notes is None:
        return found
    dated = notes["date"].removeprefix(" - ")
    if not _is_date(dated):
        found.append(f"CHANGELOG.md has '{notes[0]}'; write '## [{notes['version']}] - YYYY-MM-DD'")
    released = re.search(r"^date-released: (.+)$", texts["CITATION.cff"], re.MULTILINE)
    if released is None or released[1] != dated:
        given = released[1] if released else "no date-released"
        found.append(f"CHANGELOG.md has the date '{dated}', and CITATION.cff has {given}")
    before = texts["CHANGELOG.md"][: notes.start()].partition("## [Unreleased]")[2]
    if before.strip():
        found.append("CHANGELOG.md has entries under [Unreleased]; move them under the version")
    return found


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:  # a 13th month
        return False
    return True


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give the tag: python scripts/check_release.py v0.2.0")
    sys.exit("\n".join(faults(sys.argv[1])) or 0)
