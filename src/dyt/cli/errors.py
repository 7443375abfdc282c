"""Errors of the command line: bad input is one line on stderr with exit code 2, an interruption exits with 130."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from dyt.config.explained import explain
from dyt.errors import LONGEST_ERROR, DyTError, shortened

BAD_INPUT, INTERRUPTED = 2, 130


class OneLine(TyperGroup):
    """A group of commands whose errors are one line each; with `--debug` anywhere, or DYT_DEBUG=1, a traceback.

    Only errors that a user can fix are shown like this. Any other exception is a fault of ours and keeps its traceback.
    """

    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in given or os.environ.get("DYT_DEBUG", "") not in {"", "0"}
        given = [arg for arg in given if arg != "--debug"]
        try:
            code = super().main(given, *rest, standalone_mode=False, **extra)  # type: ignore[misc]
        except Exception as error:
            answer = None if debug else explained(error)
            if answer is None:
                raise
            line, code = answer
            typer.echo(line, err=True)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def explained(error: BaseException) -> tuple[str, int] | None:
    """(line, exit code) for an error that the user can fix, None for any other."""
    if _interrupted(error):
        return f"dyt: interrupted{_detail(error)}", INTERRUPTED
    if hasattr(error, "format_message"):  # the parser's own errors; typer has two base classes for them, both private
        verb = getattr(getattr(error, "ctx", None), "command_path", "dyt")
        return f"dyt: {_flat(error.format_message())} ({verb} --help shows what is allowed)", BAD_INPUT
    if isinstance(error, ValidationError):
        return f"dyt: {_flat(explain(error))}", BAD_INPUT
    if isinstance(error, DyTError):
        return f"dyt: {_flat(str(error))}", BAD_INPUT
    if isinstance(error, OSError) and error.filename is not None:
        return f"dyt: {error.filename}: {error.strerror}", BAD_INPUT
    return None


def _interrupted(error: BaseException) -> bool:
    training = sys.modules.get("dyt.train.state")  # an error of a module that was not imported cannot have been raised
    return isinstance(error, typer.Abort) or (training is not None and isinstance(error, training.Interrupted))


def _detail(error: BaseException) -> str:
    return f"; {_flat(str(error))}" if isinstance(error, DyTError) else ""


def _flat(text: str) -> str:
    return shortened(text, LONGEST_ERROR)
