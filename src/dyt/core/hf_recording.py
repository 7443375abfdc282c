"""The hooks by which transformers records hidden states, put on layers while it still knows them by their class.

transformers makes them at the first call with `output_hidden_states`, for layers of the class that it knows, which a
dynamic block is not. A block has the hooks of the layer whose place it takes. They are closures, which cannot be
pickled, so that each is held in a `Recording`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

CAPTURING = "transformers.utils.output_capturing"


class Recording:
    """A hook of transformers', which is made anew where it is unpickled."""

    def __init__(self, hook: Callable[..., None]) -> None:
        self.hook = hook

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.hook(module, args, output)

    def __reduce__(self) -> tuple[Any, ...]:
        cells = (cell.cell_contents for cell in self.hook.__closure__ or ())
        given = dict(zip(self.hook.__code__.co_freevars, cells, strict=True))
        return _made, (given["key"], given["index"], given["capture_initial_hidden_state"])


def _made(key: str, index: int, initial: bool) -> Recording:
    holder = nn.Identity()
    importlib.import_module(CAPTURING).install_output_capuring_hook(holder, key, index, initial)
    return Recording(next(iter(holder._forward_hooks.values())))


def let_record(model: nn.Module) -> None:
    """Has transformers put its hooks on a model of its own, where this version has them."""
    install = getattr(sys.modules.get(CAPTURING), "maybe_install_capturing_hooks", None)
    if install is None:  # a version that records in the layers' own loop
        return
    install(model)
    for module in model.modules():
        for number, hook in module._forward_hooks.items():
            if getattr(hook, "__module__", None) == CAPTURING:
                module._forward_hooks[number] = Recording(hook)
