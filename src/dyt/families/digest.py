"""A digest of a method's source: of its syntax tree, without what is for readers alone.

Nothing but the standard library is imported, so that any Python can run this file by itself. `ast.dump` would not do:
what it prints differs between versions of Python.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
UNREAD = frozenset({"annotation", "returns", "type_comment", "kind", "ctx"})
"""Fields of nodes that change nothing of what is computed, or follow from the rest."""


def digest(node: Function) -> str:
    """16 hexadecimal digits; equal for functions that differ in layout, comments, docstrings and annotations alone."""
    return hashlib.sha256(repr(_plain(node)).encode()).hexdigest()[:16]


def function_of(source: str) -> Function:
    """The one function of a source text, which may be indented.

    Raises:
        SyntaxError: it is no Python, or something else than one function.
    """
    first = source[: len(source) - len(source.lstrip(" \t"))]
    # an indented `def` stands in a block, rather than dedented: text in triple quotes must stay what it is
    tree: ast.AST = ast.parse(f"if True:\n{source}" if first else source)
    body = tree.body[0].body if first else tree.body  # type: ignore[attr-defined]
    if len(body) != 1 or not isinstance(body[0], Function):
        raise SyntaxError("not one function")
    return body[0]


def methods_of(source: str) -> dict[str, Function]:
    """The methods of the classes of a module's source text, by `Class.method`; also of classes inside classes."""
    return dict(_methods(ast.parse(source).body, ""))


def _methods(body: Sequence[ast.stmt], prefix: str) -> Iterator[tuple[str, Function]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _methods(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, Function) and prefix:
            yield f"{prefix}{node.name}", node


def _plain(node: object) -> Any:
    """A value of tuples and constants, the same for the same code in every version of Python."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        node = ast.Assign(targets=[node.target], value=node.value)
    if isinstance(node, ast.JoinedStr):
        return ("JoinedStr", tuple(_joined(node.values)))
    if isinstance(node, ast.AST):
        values = ((name, _plain(value)) for name, value in ast.iter_fields(node) if name not in UNREAD)
        # none and nothing are left out: versions of Python differ in the fields that a node has
        return (type(node).__name__, *sorted((name, value) for name, value in values if value not in (None, ())))
    if isinstance(node, list):
        return tuple(_plain(each) for each in node if not _for_readers(each))
    return None if node is None else repr(node)


def _joined(values: Sequence[ast.expr]) -> Iterator[Any]:
    """The parts of an f-string, its neighbouring texts as one: versions of Python cut them differently."""
    text = ""
    for value in values:
        if isinstance(value, ast.Constant):
            text += str(value.value)
            continue
        if text:
            yield text
        text = ""
        yield _plain(value)
    if text:
        yield text


def _for_readers(node: object) -> bool:
    """A statement that does nothing: a docstring or another text by itself, or a bare annotation."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, str)
    return isinstance(node, ast.AnnAssign) and node.value is None
