"""Counting without computing: operations that are counted answer zeros of the right shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from dyt.measure.flops.table import OURS, name_of

_aten = torch.ops.aten
_DRAWS = {_aten.normal_, _aten.uniform_, _aten.erfinv_}
"""What random weights are drawn by."""


@cache
def _answers_shapes(func: Any) -> bool:
    """Whether it is counted, changes nothing that it is given, and this torch knows what shape it answers."""
    return (
        isinstance(func, OpOverload)
        and name_of(func) in OURS
        and not func._schema.is_mutable
        and torch._C._dispatch_has_computed_kernel_for_dispatch_key(str(func.name()), "Meta")  # type: ignore[no-untyped-call]
    )


class ShapesOnly(TorchDispatchMode):
    """Inside, the products that are counted answer zeros on the CPU, and random weights are not drawn.

    What they cost depends on shapes alone, so that a FLOP counter entered inside counts the same: the model's code, its
    executors' gathering included, runs as ever. For models whose numbers of tokens are given (forced masks) or fixed;
    where they follow from values, a count is that of a model whose products are all zero.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, OpOverload) and func.overloadpacket in _DRAWS:
            return args[0].zero_()
        if types or not _answers_shapes(func):
            return func(*args, **kwargs)
        shaped = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (tuple(args), dict(kwargs)))
        out = func(*shaped[0], **shaped[1])
        return tree_map_only(Tensor, lambda tensor: torch.zeros_like(tensor, device="cpu"), out)
