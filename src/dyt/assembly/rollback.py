"""All or nothing: what was done to a model is taken back when a step fails.

Nothing is copied beforehand but references: modules, tensors and objects are held by identity, dicts, lists and sets with
what is in them, in place, since handles of hooks point at them. Values are copied when an operator is about to write
over them, which none of the library's own steps does to a backbone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def rollback(model: nn.Module, always: bool = False) -> Iterator[Snapshot]:
    """Puts the model back as it was if the block raises, whatever it raises, or `always`; the exception goes on."""
    before, kept = Snapshot(model), False
    try:
        with before.writes:
            yield before
        kept = not always
    finally:
        if not kept:
            before.restore()


@dataclass(frozen=True)
class _Tensor:
    """What a tensor is beside its values. `memory`: the same memory without a graph, whatever becomes of the tensor."""

    tensor: Tensor
    memory: Tensor
    requires_grad: bool
    grad: Tensor | None
    hooks: tuple[dict[Any, Any], ...]

    @classmethod
    def of(cls, tensor: Tensor) -> _Tensor:
        hooks = tuple(dict(each) for each in _hooks(tensor))
        return cls(tensor, tensor.detach(), tensor.requires_grad, tensor.grad if tensor.is_leaf else None, hooks)

    def holds(self) -> bool:
        now, grad = self.tensor, self.tensor.grad if self.tensor.is_leaf else None
        flags = now.requires_grad == self.requires_grad and grad is self.grad
        hooked = all(_same(*both) for both in zip(_hooks(now), self.hooks, strict=True))
        return flags and hooked and _place(now) == _place(self.memory)

    def restore(self) -> None:
        if self.holds():
            return
        if _place(self.tensor) != _place(self.memory):  # `tensor.data = other`
            self.tensor.data = self.memory
        if not self.requires_grad and not self.tensor.is_leaf:
            self.tensor.detach_()
        self.tensor.requires_grad_(self.requires_grad)
        if self.tensor.is_leaf:
            self.tensor.grad = self.grad
        for here, before in zip(_hooks(self.tensor), self.hooks, strict=True):
            _refill(here, before)


class Snapshot:
    """What a model consists of at one moment, to tell whether it has changed, and to put it back.

    Objects that are neither modules, tensors nor plain containers are held by identity: what is inside them is not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, type(module), dict(vars(module))) for module in model.modules()]
        self._containers: dict[int, tuple[Any, Any]] = {}
        self._tensors: dict[int, _Tensor] = {}
        for _, _, attributes in self._modules:
            for value in attributes.values():
                self._add(value)
        self.writes = _Writes(each.memory for each in self._tensors.values())

    def _add(self, value: Any) -> None:
        if isinstance(value, Tensor):
            if id(value) not in self._tensors:
                self._tensors[id(value)] = each = _Tensor.of(value)
                self._add(vars(value))
                self._add(each.grad)
        elif isinstance(value, (dict, list, set)) and id(value) not in self._containers:
            content = dict(value) if isinstance(value, dict) else list(value)
            self._containers[id(value)] = value, content
            for each in content.values() if isinstance(content, dict) else content:
                self._add(each)
        elif isinstance(value, tuple):
            for each in value:
                self._add(each)

    def holds(self) -> bool:
        """Whether the model is as it was."""
        return (
            not self.writes.copies
            and all(type(m) is cls and _same(vars(m), attributes) for m, cls, attributes in self._modules)
            and all(_same(container, content) for container, content in self._containers.values())
            and all(each.holds() for each in self._tensors.values())
        )

    def restore(self) -> None:
        """Makes the model what it was; what is so anyway is not touched."""
        for module, cls, attributes in self._modules:
            if type(module) is not cls:  # as torch's parametrizations do it
                module.__class__ = cls
            _refill(vars(module), attributes)
        for container, content in self._containers.values():
            _refill(container, content)
        for each in self._tensors.values():
            each.restore()
        self.writes.restore()


class _Writes(TorchDispatchMode):
    """Copies the values of tensors before the first operator inside that writes over them.

    Args:
        tensors: detached ones.

    Attributes:
        copies: of each tensor that was written to, itself and what it held.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copies: list[tuple[Tensor, Tensor]] = []
        self._by_memory: dict[int, list[Tensor]] = {}
        for tensor in tensors:
            if (memory := _memory(tensor)) is not None:
                self._by_memory.setdefault(memory, []).append(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in _written(func, args, kwargs):
            for own in self._by_memory.pop(_memory(tensor) or 0, ()):
                self.copies.append((own, own.clone()))
        return func(*args, **kwargs)

    def restore(self) -> None:
        for tensor, values in self.copies:
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                tensor.copy_(values)


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operator is going to write to, by its schema; of a higher-order one its parts are seen."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from (each for each in tree_leaves(given) if isinstance(each, Tensor))


def _memory(tensor: Tensor) -> int | None:
    """Where a tensor's values lie; None where it has none, or another library packs them its own way."""
    if type(tensor) not in {Tensor, nn.Parameter} or tensor.layout != torch.strided or tensor.is_meta:
        return None
    return tensor.untyped_storage().data_ptr() or None


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return _memory(tensor), tensor.storage_offset() if _memory(tensor) else 0, tensor.shape, tensor.dtype, tensor.device


def _hooks(tensor: Tensor) -> tuple[dict[Any, Any], ...]:
    """Where torch keeps a tensor's own hooks; empty where it has none."""
    return tensor._backward_hooks or {}, getattr(tensor, "_post_accumulate_grad_hooks", None) or {}


def _refill(container: Any, content: Any) -> None:
    if _same(container, content):
        return
    container.clear()
    (container.extend if isinstance(container, list) else container.update)(content)


def _same(now: Any, before: Any) -> bool:
    """Whether two containers hold the same objects in the same order."""
    ours, theirs = _items(now), _items(before)
    return len(ours) == len(theirs) and all(a is b for a, b in zip(ours, theirs, strict=True))


def _items(container: Any) -> list[Any]:
    return [*container, *container.values()] if isinstance(container, dict) else list(container)
