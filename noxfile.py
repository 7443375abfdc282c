"""The verbs of a developer: `nox -s tests`, `nox -s lint types`; `nox -l` lists them. Needs nox (`pipx install nox`).

They run in the environment that nox is called in; `floor` and `full` make their own, as CI does.
"""

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "none"


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, or what is named: nox -s tests -- tests/families."""
    session.run("pytest", *(session.posargs or ("-n", "auto")), external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and layout."""
    session.run("ruff", "check", external=True)
    session.run("ruff", "format", "--check", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Strict types."""
    session.run("mypy", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, where a warning is an error."""
    session.run("mkdocs", "build", "--quiet", "--strict", external=True)


@nox.session
def examples(session: nox.Session) -> None:
    """Every example, run whole."""
    for example in sorted(Path("examples").glob("*.py")):
        session.run("python", str(example), external=True)


@nox.session
def floor(session: nox.Session) -> None:
    """The lowest versions that are allowed."""
    session.run(".ci/run", "floor", external=True)


@nox.session
def full(session: nox.Session) -> None:
    """All that is checked before a change goes in."""
    session.run(".ci/run", external=True)
