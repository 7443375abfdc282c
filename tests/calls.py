"""Which files and functions of dyt a call goes through."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import dyt

SOURCE = Path(dyt.__file__).parent


class Calls(NamedTuple):
    """In the order in which they were first entered.

    Attributes:
        files: below src/dyt.
        functions: as `model/site.py:Site.forward`; comprehensions and lambdas are left out, since whether Python calls
            them depends on its version.
        count: of all calls of these functions.
    """

    files: list[str]
    functions: list[str]
    count: int


def calls_of(run: Callable[[], Any]) -> Calls:
    """What of dyt a call goes through; run it once before, so that nothing is imported or cached inside."""
    functions: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(SOURCE) and not frame.f_code.co_name.startswith("<"):
            functions.append(f"{path.relative_to(SOURCE).as_posix()}:{frame.f_code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    distinct = list(dict.fromkeys(functions))
    return Calls(list(dict.fromkeys(each.partition(":")[0] for each in distinct)), distinct, len(functions))
