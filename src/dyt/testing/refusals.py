"""Law 11: whatever is refused, or fails, leaves the given backbone as it was.

As it was: every module and object is the same one, in the same place; every tensor has the same bits, flags, gradient and
hooks; every dict, list and set has the same things in it. Nothing here uses what the library puts a backbone back with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from dyt.assembly.build import apply, build
from dyt.assembly.plan import BuildPlan, plan
from dyt.config.spec import DyTSpec, parse
from dyt.errors import DyTError
from dyt.testing.cases import Sample, spec
from dyt.testing.laws import Chosen, require


@dataclass(frozen=True)
class Entry:
    """One thing in a model. `value` is compared by identity, and held, so that nothing new can have its id."""

    place: str
    value: object
    facts: object = None

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Entry)
        return self.place == other.place and self.value is other.value and self.facts == other.facts


def inventory(model: nn.Module) -> list[Entry]:
    """Everything that a model is made of."""
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        found.append(Entry(path or "the model", module, type(module)))
        for name, value in vars(module).items():
            found += _inside(f"{path}.{name}".lstrip("."), value)
    return found


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Whatever is done inside leaves the model as it was.

    Raises:
        AssertionError: it does not; says where the first difference is.
    """
    before = inventory(model)
    yield
    after = inventory(model)
    for was, now in zip(before, after, strict=False):
        require(
            was == now, f"not left as it was: {was.place}" + (f" (now {now.place})" if was.place != now.place else "")
        )
    others = [entry.place for entry in (*before[len(after) :], *after[len(before) :])]
    require(not others, f"not left as it was: {others[:1]} is new or gone")


def lived_in(backbone: nn.Module) -> nn.Module:
    """The same backbone with what a user may have put on it: hooks, gradients, frozen parts, parts in another mode."""

    def look(*args: Any, **kwargs: Any) -> None:
        """Sees, and changes nothing."""

    modules = list(backbone.modules())
    for module in modules[:: max(len(modules) // 8, 1)]:
        module.register_forward_pre_hook(look, with_kwargs=True)
        module.register_forward_hook(look, always_call=True)
        module.register_full_backward_hook(look)
        module.register_state_dict_post_hook(look)
        module.register_load_state_dict_post_hook(look)
        module.note = {"of": ["the user"]}  # type: ignore[assignment]
    for module in modules[3::7]:
        module.train(not module.training)
    for i, parameter in enumerate(backbone.parameters()):
        parameter.requires_grad_(i % 3 > 0)
        if i % 3 == 1:
            parameter.grad = torch.ones_like(parameter)
        if i % 3 == 2:
            parameter.register_hook(look)
    return backbone


def refusal_leaves_the_backbone(case: Sample, chosen: Chosen) -> None:
    """Law 11: a backbone is as it was after a refusal, and after a failure when it was all but built."""
    refused_on(lived_in(case.backbone()), parse(DyTSpec, spec(**{"head": case.head(), **chosen})))


def refused_on(backbone: nn.Module, wanted: DyTSpec) -> DyTError | None:
    """What building a spec on this backbone is refused with, None for nothing; the backbone is as it was either way.

    Where it is not refused, neither planning it nor a failure of the last step leaves anything behind.

    Raises:
        AssertionError: something was left behind.
    """
    planned: BuildPlan | None = None
    refused: DyTError | None = None
    with as_it_was(backbone):
        try:
            planned = plan(wanted, backbone)
        except DyTError as error:
            refused = error
    if planned is None:
        with as_it_was(backbone):
            try:
                build(wanted, backbone=backbone)
            except DyTError as error:
                return error
        raise AssertionError(f"the plan is refused, and build is not: {refused}")
    # the last step but one, and also of a head that is made again
    planned.head.__class__ = type("Stopping", (type(planned.head),), {"train": _stop})
    with as_it_was(backbone):
        try:
            apply(planned)
        except _Stopped:
            return None
    raise AssertionError("the model is made without its head being brought into the backbone's mode")


class _Stopped(Exception):
    """Of the step that fails."""


def _stop(head: Any, mode: bool = True) -> NoReturn:
    raise _Stopped


def _inside(place: str, value: Any) -> Iterator[Entry]:
    yield Entry(place, value)
    if isinstance(value, Tensor):
        facts = value.dtype, value.device, tuple(value.shape), value.stride(), value.requires_grad, value.is_leaf
        yield Entry(f"{place}: values and flags", None, (_bits(value), *facts))
        yield from _inside(f"{place}: attributes", vars(value))
        for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            hooks = getattr(value, name, None) or {}
            yield Entry(f"{place}: {name}", None, [(key, id(hook)) for key, hook in hooks.items()])
        if value.is_leaf and value.grad is not None:
            yield from _inside(f"{place}: gradient", value.grad)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _inside(f"{place}[{key!r}]", each)
    elif isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            yield from _inside(f"{place}[{i}]", each)
    elif isinstance(value, set):
        yield Entry(f"{place}: elements", None, set(value))


def _bits(tensor: Tensor) -> bytes:
    if tensor.is_meta or not tensor.numel():
        return b""
    plain = tensor.detach().cpu().contiguous().flatten()
    return plain.view(torch.uint8).numpy().tobytes()
