"""The console on which tables and sentences are printed; brackets in names and paths are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Standard output by rich, without its markup, in which `dyt[export]` and paths would lose their brackets."""
    from rich.console import Console

    return Console(markup=False, emoji=False)
