"""Nested plain data with tensors in it, an optimiser's state say, as JSON beside tensors by name; and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dyt.errors import DyTError


def taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """What JSON can hold of `value`, whose tensors are put into `tensors` under names that begin with `name`.

    Args:
        value: None, bool, int, float, str, dtype or tensor, or a list, tuple or dict of such.
        name: of the value, for the names of its tensors: `optimizer.state.0.exp_avg`.
        tensors: gets copies on the CPU.

    Raises:
        DyTError: anything else.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        parts = [taken_apart(each, f"{name}.{i}", tensors) for i, each in enumerate(value)]
        return parts if isinstance(value, list) else {"tuple": parts}
    if isinstance(value, Mapping):
        pairs = [[taken_apart(k, name, tensors), taken_apart(v, f"{name}.{k}", tensors)] for k, v in value.items()]
        return {"dict": pairs}
    raise DyTError(f"{name} is a {type(value).__name__}, which a run cannot save; use another train.optimizer")


def put_together(plain: Any, tensors: dict[str, Tensor]) -> Any:
    """What `taken_apart` was given; its tensors are taken out of `tensors`.

    Raises:
        ValueError: what `taken_apart` does not make, or a tensor that is not there.
    """
    if isinstance(plain, list):
        return [put_together(each, tensors) for each in plain]
    if not isinstance(plain, dict):
        return plain
    match list(plain.items()):
        case [("tensor", str(name))] if name in tensors:
            return tensors.pop(name)
        case [("tensor", name)]:
            raise ValueError(f"no tensor '{name}'")
        case [("dtype", str(name))] if isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        case [("tuple", list(parts))]:
            return tuple(put_together(each, tensors) for each in parts)
        case [("dict", list(pairs))] if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            try:
                return {put_together(k, tensors): put_together(v, tensors) for k, v in pairs}
            except TypeError as error:  # an unhashable key
                raise ValueError(str(error)) from error
    raise ValueError(f"'{', '.join(map(str, plain))}' is no part of a state")
