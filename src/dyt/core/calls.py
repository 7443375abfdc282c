"""Modules are called, since others hook into calls (peft, accelerate, the user); and what has to look at that."""

from __future__ import annotations

from typing import Any

from torch import nn


def bare(module: nn.Module) -> bool:
    """Whether nobody would notice that a module is not called: its weights may be read instead.

    Not so where hooks are registered on it, or where its forward was replaced, as accelerate does to offload it.
    """
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not hooks and "forward" not in vars(module)


def called_with(module: nn.Module, aside: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """`module(aside, *args, **kwargs)`, where `aside` is a model that stays where it is.

    accelerate sends every argument of a module that it has a hook on to that module's device, models included.
    """
    hook: Any = getattr(module, "_hf_hook", None)
    if hook is None:
        return module(aside, *args, **kwargs)
    args, kwargs = hook.pre_forward(module, *args, **kwargs)
    return hook.post_forward(module, type(module).forward(module, aside, *args, **kwargs))
