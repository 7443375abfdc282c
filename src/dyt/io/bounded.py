"""A bound on the work of making a model without memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

CALLS, CALLS_PER_TENSOR = 100_000, 1_000
"""Calls of torch that a model may take to make: so many, and so many more for each tensor in its file. A ViT-B takes
about 5,000."""
STARTS = frozenset({"kaiming_uniform_", "normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_"})
"""What gives a tensor its first values, of which it has none here; torch takes its time over them all the same."""


class TooMuchError(RuntimeError):
    """What was being made takes more work than its file warrants."""


class Bounded(TorchFunctionMode):
    """Inside, calls of torch are counted, and those that only start tensors without memory are left out.

    Args:
        tensors: how many the model's file has.

    Raises:
        TooMuchError: more calls than a file with so many tensors warrants.
    """

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.left = CALLS + CALLS_PER_TENSOR * tensors

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise TooMuchError("making the model takes too many steps for a file of this size")
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in STARTS:
            started = args[0] if args else kwargs.get("tensor")  # by its name where torch.nn.init calls
            if isinstance(started, Tensor) and started.is_meta:
                return started
        return func(*args, **kwargs)
