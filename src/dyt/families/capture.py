"""Capturing what a module inside timm's own forward returns, without a copy of that forward and at no cost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class _Captured(threading.local):
    """The captures of this thread; other threads that run the same module do not add to them."""

    found: list[Tensor] | None = None


_captured = _Captured()


def _tell(module: nn.Module, args: Any, output: Tensor) -> None:
    if _captured.found is not None:
        _captured.found.append(output)


def prepare(module: nn.Module) -> None:
    """Registers the capturing hook on a module. The hook is the same for all and keeps no state on the module."""
    if _tell not in module._forward_hooks.values():
        module.register_forward_hook(_tell)


def forget(module: nn.Module) -> None:
    """Undoes `prepare`, if it was called."""
    for key in [key for key, hook in module._forward_hooks.items() if hook is _tell]:
        del module._forward_hooks[key]


@contextmanager
def captured() -> Iterator[list[Tensor]]:
    """Yields a list of what prepared modules return inside, in this thread."""
    before, _captured.found = _captured.found, []
    try:
        yield _captured.found
    finally:
        _captured.found = before
