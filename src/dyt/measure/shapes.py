"""Counting without computing: operations that are counted answer zeros of the right shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_aten = torch.ops.aten
_PRODUCTS = {
    _aten.mm,
    _aten.addmm,
    _aten.bmm,
    _aten.baddbmm,
    _aten.convolution,
    _aten._scaled_dot_product_flash_attention_for_cpu,
}
_DRAWS = {_aten.normal_, _aten.uniform_, _aten.erfinv_}
"""What random weights are drawn by."""


class ShapesOnly(TorchDispatchMode):
    """Inside, matrix products, convolutions and attention on the CPU answer zeros, and random weights are not drawn.

    What they cost depends on shapes alone, so that a FLOP counter entered inside counts the same: the model's code, its
    executors' gathering included, runs as ever. For models whose numbers of tokens are given (forced masks) or fixed;
    where they follow from values, a count is that of a model whose products are all zero.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in _DRAWS:
            return args[0].zero_()
        if packet not in _PRODUCTS:
            return func(*args, **kwargs)
        shaped = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (tuple(args), dict(kwargs)))
        out = func(*shaped[0], **shaped[1])
        return tree_map_only(Tensor, lambda tensor: torch.zeros_like(tensor, device="cpu"), out)
