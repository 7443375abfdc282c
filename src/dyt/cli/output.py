"""Where tables and sentences are printed: names and paths stay as they are, brackets included."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Standard output, by rich, without its markup: in it `dyt[export]` would lose its brackets, as would a path."""
    from rich.console import Console

    return Console(markup=False, emoji=False)
