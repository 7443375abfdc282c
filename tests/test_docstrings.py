"""What a docstring says of parameters is of parameters that there are: the pages of the API are made of it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ENTRY = re.compile(r"^ {4}(?P<name>\S[^:]*):", re.MULTILINE)


def described(docstring: str) -> list[str]:
    """The names in the section `Args`, one an entry, as they are written."""
    section = re.search(r"^Args:\n(?P<body>(?:(?: {4}.*)?\n)*(?: {4}.*)?)", docstring, re.MULTILINE)
    return [] if section is None else [match["name"] for match in ENTRY.finditer(section["body"])]


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    given = function.args
    names = {argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
    names |= {f"*{given.vararg.arg}"} if given.vararg else set()
    return names | ({f"**{given.kwarg.arg}"} if given.kwarg else set())


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_described_parameters_exist(path: Path) -> None:
    for function in functions(path):
        unknown = set(described(ast.get_docstring(function) or "")) - parameters(function)
        assert not unknown, f"{path}:{function.lineno}: {function.name} has no parameter {sorted(unknown)}"


def test_parameters_are_read_as_they_are_written() -> None:
    text = "Adds.\n\nArgs:\n    a, b: two.\n    *c: more,\n        on two lines: so.\n    **d: rest.\n\nReturns:\n    e"
    assert described(text) == ["a, b", "*c", "**d"]
    (function,) = ast.parse("def f(x, /, a, *c, k, **d): ...").body
    assert isinstance(function, ast.FunctionDef)
    assert parameters(function) == {"x", "a", "*c", "k", "**d"}
    assert any(described(ast.get_docstring(function) or "") for path in SOURCES for function in functions(path))
