"""`new_plugin`: an installable package with a small working component of one kind, to start a plug-in from."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from string import Template

from dyt.errors import DyTError, nearest
from dyt.registry import KINDS

PLURALS = {kind.removesuffix("s"): kind for kind in KINDS if kind != "families"} | {"family": "families"}
"""The kinds as `--kind` names them, and as the registries do."""
_NAME = re.compile("[a-z][a-z0-9]*(_[a-z0-9]+)*")
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "{kind}/component.py": "src/{module}/__init__.py",
    "{kind}/test.py": "tests/test_{name}.py",
    "{kind}/backbone.py": "tests/small_vit.py",
}
"""Where each template goes; those that a kind does not have are left out."""

__all__ = ["PLURALS", "new_plugin"]


def new_plugin(name: str, kind: str, out: str | Path = ".") -> Path:
    """Writes the package `dyt-<name>`: entry point, component, spec, a passing test, README.

    Args:
        name: the component's name, as used in specs: lower-case letters, digits and single underscores between them.
        kind: dispatcher, adapter, variant, executor, family, tuner, reducer or head.
        out: the folder in which the package's own folder is made.

    Returns:
        The package's folder.

    Raises:
        DyTError: a wrong kind or name, a name that is taken, or a folder that exists. Nothing was written.
    """
    if kind not in PLURALS:
        raise DyTError(f"no kind of plug-in '{kind}'; {nearest(kind, PLURALS)}")
    if not _NAME.fullmatch(name):
        raise DyTError(
            f"'{name}' cannot name a component; allowed: lower-case letters, digits and single underscores between "
            f"them, a letter first, as in 'top_half'"
        )
    registry = KINDS[PLURALS[kind]]
    if name in registry:
        raise DyTError(f"{registry.kind} '{name}' is taken by {registry.origin(name)}; choose another name")
    target = Path(out) / f"dyt-{name.replace('_', '-')}"
    if target.exists():
        raise DyTError(f"'{target}' exists; choose another name, another --out, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Written to a temporary folder and then moved, so that an interruption leaves no incomplete package.
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for path, text in _written(name, kind):
            file = draft / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        draft.chmod(0o755)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _written(name: str, kind: str) -> Iterator[tuple[str, str]]:
    """(path in the package, text) of every file."""
    camel = "".join(part.capitalize() for part in name.split("_"))
    words = {
        "name": name,
        "kind": kind,
        "kinds": PLURALS[kind],
        "distribution": f"dyt-{name.replace('_', '-')}",
        "module": f"dyt_{name}",
        "component": f"{camel}{kind.capitalize()}",
    }
    for source, path in _FILES.items():
        template = files("dyt.scaffold").joinpath("templates", *f"{source.format(**words)}.tmpl".split("/"))
        if template.is_file():
            yield path.format(**words), Template(template.read_text(encoding="utf-8")).substitute(words)
