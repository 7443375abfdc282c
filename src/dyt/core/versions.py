"""What differs between the versions of torch and timm that are allowed: here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

SHOWS_HIGHER_ORDER = hasattr(TorchDispatchMode, "supports_higher_order_operators")
"""Whether a mode sees higher-order operators because it says so; else each has to be told of the mode."""


def shown_to(mode: type[TorchDispatchMode], operators: Iterable[HigherOrderOperator], itself: bool) -> None:
    """Has a mode see these higher-order operators in its `__torch_dispatch__`, as any other.

    `itself`: whether this torch does that itself (`SHOWS_HIGHER_ORDER`).
    """
    if itself:
        return
    for operator in operators:

        def seen(entered: Any, *args: Any, of: HigherOrderOperator = operator, **kwargs: Any) -> Any:
            return entered.__torch_dispatch__(of, (), args, kwargs)

        operator.py_impl(mode)(seen)


def reset_classifier(backbone: nn.Module, num_classes: int) -> None:
    """timm's `reset_classifier`; the new head has the backbone's dtype and device, as in timm since 1.0.29.

    Args:
        backbone: a timm model, or what has its interface; changed.
        num_classes: outputs of the new head; 0 for none.
    """
    before = list(backbone.parameters())  # kept alive, so that no new parameter can have the identity of an old one
    old = {id(parameter) for parameter in before}
    model: Any = backbone
    model.reset_classifier(num_classes)
    like = next((parameter for parameter in before if parameter.is_floating_point()), None)
    if like is None:
        return
    for module in backbone.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(id(parameter) in old for parameter in own):
            module.to(device=like.device, dtype=like.dtype)
