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
        value: None, bool, int, float, str, dtype or tensor, or a list, tuple or dict of such, whose keys
            are str or int.
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
        return {"dict": [[key, taken_apart(each, f"{name}.{key}", tensors)] for key, each in value.items()]}
    raise DyTError(f"{name} is a {type(value).__name__}, which a run cannot save; use another train.optimizer")


def put_together(plain: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """What `taken_apart` was given; its tensors are taken out of `tensors`.

    Raises:
        ValueError: what `taken_apart` does not make, or a tensor that is not there or stands elsewhere.
    """
    if isinstance(plain, list):
        return [put_together(each, f"{name}.{i}", tensors) for i, each in enumerate(plain)]
    if not isinstance(plain, dict):
        return plain
    match list(plain.items()):
        case [("tensor", str(given))] if given == name and name in tensors:
            return tensors.pop(name)
        case [("tensor", given)]:
            raise ValueError(f"tensor '{given}' as {name}")
        case [("dtype", str(kind))] if isinstance(getattr(torch, kind, None), torch.dtype):
            return getattr(torch, kind)
        case [("tuple", list(parts))]:
            return tuple(put_together(parts, name, tensors))
        case [("dict", list(pairs))] if all(_is_pair(pair) for pair in pairs):
            keys = [pair[0] for pair in pairs]
            if len(set(keys)) == len(keys):
                return {key: put_together(each, f"{name}.{key}", tensors) for key, each in pairs}
    raise ValueError(f"'{', '.join(map(str, plain))}' is no part of a state")


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], (str, int))
