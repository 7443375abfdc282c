"""Tensors that are not all there: sharded over ranks, packed by a quantisation, or offloaded by accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dyt.errors import UnsupportedError


def offloaded(module: nn.Module) -> bool:
    """Whether accelerate has a hook in it, or in a module of it, that keeps weights elsewhere between calls."""
    return any(_offloads(getattr(each, "_hf_hook", None)) for each in module.modules())


def _offloads(hook: Any) -> bool:
    return bool(getattr(hook, "offload", False)) or any(map(_offloads, getattr(hook, "hooks", ())))


@contextmanager
def at_hand(module: nn.Module | None) -> Iterator[None]:
    """The module's own weights are there inside, also where accelerate keeps them elsewhere between calls.

    For what has to read a weight without a call of its module.
    """
    hook: Any = getattr(module, "_hf_hook", None)
    if not _offloads(hook):
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


@contextmanager
def all_at_hand(model: nn.Module) -> Iterator[None]:
    """The weights of all its modules are there inside."""
    with ExitStack() as stack:
        for module in model.modules():
            stack.enter_context(at_hand(module))
        yield


def refuse_absent(model: nn.Module, asked: str) -> None:
    """Refuses a model whose weights are not all there, for what reads or writes them.

    Args:
        model: any.
        asked: what was called, for the message.

    Raises:
        UnsupportedError: weights offloaded by accelerate, sharded over ranks, or on the meta device.
    """
    if offloaded(model):
        raise UnsupportedError(
            f"{asked}: weights of the model are offloaded by accelerate; call it on the model before it is offloaded, "
            f"or after accelerate.hooks.remove_hook_from_submodules(model)"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if hasattr(tensor, "full_tensor"):
            raise UnsupportedError(
                f"{asked}: '{name}' is sharded over ranks; call it on a model that is not, dyt.load of a saved one say"
            )
        if tensor.is_meta:
            raise UnsupportedError(f"{asked}: '{name}' is on the meta device and has no values; load the weights first")


def plain_tensor(tensor: Tensor, name: str) -> Tensor:
    """The whole tensor, detached, contiguous and on the CPU. Of a sharded one it is gathered: call it on all ranks.

    Raises:
        UnsupportedError: one without values, or of a class that is packed (`plain_parts` reads those).
    """
    found = _gathered(tensor, name)
    if hasattr(found, "__tensor_flatten__") or type(found) is not Tensor:
        raise UnsupportedError(
            f"'{name}' is a {type(found).__name__}, not a plain tensor, and cannot be stored; quantise what is frozen "
            f"alone"
        )
    return found.cpu().contiguous()


def plain_parts(tensor: Tensor, name: str) -> list[tuple[str, Tensor]]:
    """(name, tensor) of what a tensor is made of, to be hashed: itself, or the inner tensors of a packed one.

    Raises:
        UnsupportedError: one without values, or of a class that does not tell its inner tensors.
    """
    found = _gathered(tensor, name)
    flatten = getattr(found, "__tensor_flatten__", None)
    if flatten is None:
        return [(name, plain_tensor(found, name))]
    inner = sorted(flatten()[0])
    return [part for each in inner for part in plain_parts(getattr(found, each), f"{name}.{each}")]


def _gathered(tensor: Tensor, name: str) -> Tensor:
    found = tensor.detach()
    full = getattr(found, "full_tensor", None)  # of a DTensor
    found = found if full is None else full()
    if found.is_meta:
        raise UnsupportedError(f"'{name}' is on the meta device and has no values; load the weights first")
    return found
