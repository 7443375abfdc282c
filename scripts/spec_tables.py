#!/usr/bin/env python3
"""Write the tables of specs' fields in the docs from the descriptions in the code.

A table stands below a line that is a spec's public path alone, such as ```dyt.ObjectiveSpec```. To add one, write that
line, an empty line and a line ``|``, then run the script from anywhere; ``--check`` changes nothing, and exits with 1
where a page is not up to date::

    python scripts/spec_tables.py
    python scripts/spec_tables.py --check
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel

from dyt.config.base import ComponentSpec
from dyt.config.fields import Described, described

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"^`(?P<path>dyt\.[\w.]+)`\n\n(?P<rows>(?:^\|.*\n)+)", re.MULTILINE)
HEADER = "| Field | Default | Values | Meaning |\n|---|---|---|---|\n"


def pages() -> Iterator[Path]:
    """The pages that have such tables."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        if TABLE.search(page.read_text(encoding="utf-8")):
            yield page


def with_tables(text: str) -> str:
    """A page's text, its tables written anew. What an earlier table of the page says already, a row refers to."""
    seen: dict[tuple[str, Described], str] = {}

    def table(match: re.Match[str]) -> str:
        spec = spec_at(match["path"])
        rows = [row(spec, field, seen) for field in shown(spec)]
        return f"`{match['path']}`\n\n{HEADER}{''.join(rows)}"

    return TABLE.sub(table, text)


def spec_at(path: str) -> type[BaseModel]:
    """The spec class at a public path."""
    module, _, name = path.rpartition(".")
    spec: type[BaseModel] = getattr(import_module(module), name)
    return spec


def shown(spec: type[BaseModel]) -> list[str]:
    """The fields that a table has: all, but for `type` of components, which is their heading."""
    return [field for field in spec.model_fields if field != "type" or not issubclass(spec, ComponentSpec)]


def row(spec: type[BaseModel], field: str, seen: dict[tuple[str, Described], str]) -> str:
    one = described(spec, field)
    name = spec.model_fields["type"].default if issubclass(spec, ComponentSpec) else spec.__name__
    first = seen.setdefault((field, Described(one.meaning, one.type, one.allowed, one.default)), name)
    meaning = one.meaning if first == name else f"As of `{first}`."
    default = one.default if one.default == "required" else f"`{one.default}`"
    return f"| `{field}` | {default} | {cell(values(one))} | {cell(meaning)} |\n"


def values(one: Described) -> str:
    """The type with its allowed values; of words these alone."""
    if one.type == "mapping":
        return one.type
    if one.type.startswith("string") and one.allowed:
        more = one.type.removeprefix("string")
        return ", ".join(f"`{word}`" for word in one.allowed.split(", ")) + more
    return f"{one.type}, {one.allowed}" if one.allowed else one.type


def cell(text: str) -> str:
    return text.replace("|", r"\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where a page is out of date")
    check = parser.parse_args().check
    late = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = with_tables(text)
        if new != text:
            late.append(page)
            if not check:
                page.write_text(new, encoding="utf-8")
    for page in late:
        print(f"{page.relative_to(ROOT)}: {'out of date; run scripts/spec_tables.py' if check else 'written'}")
    return int(check and bool(late))


if __name__ == "__main__":
    sys.exit(main())
