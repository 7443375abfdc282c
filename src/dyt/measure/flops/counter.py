"""The counter: what the operators inside a context multiply. Everything in the library that counts, counts with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.nested._internal.nested_tensor import NestedTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dyt.core.versions import SHOWS_HIGHER_ORDER, shown_to
from dyt.errors import UnsupportedError
from dyt.executors import watching_unseen
from dyt.measure.flops.table import formula_of, name_of
from dyt.measure.flops.unknown import multiplies


class MacCounter:
    """Counts the multiply-accumulates that are executed inside, `with MacCounter() as counter`.

    Convolutions, matrix products and attention, by the shapes that the operators are given; elementwise work, norms,
    pooling and interpolation are not counted. It makes no difference how torch takes an operator apart, or in which
    mode of gradients. What torch.compile compiled runs as it was written, since compiled code cannot be looked into.

    Attributes:
        total: multiply-accumulates so far.
        by_operator: the same by the operator's name.

    Raises:
        UnsupportedError: an operator that multiplies, of which no formula is known (`register`).
    """

    def __init__(self) -> None:
        self.by_operator: Counter[str] = Counter()
        self._stack = ExitStack()

    @property
    def total(self) -> int:
        return sum(self.by_operator.values())

    def add(self, name: str, macs: int) -> None:
        """Books what an operator of this name has multiplied."""
        self.by_operator[name] += macs

    def __enter__(self) -> Self:
        self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        self._stack.enter_context(watching_unseen(self.add))
        self._stack.enter_context(_Mode(self))
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.close()


class _Mode(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, counter: MacCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = counter

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(kind, NestedTensor) for kind in types):
            return NotImplemented  # its shape has no numbers; what it does with its values is seen
        formula = formula_of(func)
        if formula is not None:
            out = func(*args, **kwargs)
            given = {name: value for name, value in kwargs.items() if name != "out"}
            self.counter.add(name_of(func), formula(out, *args, **given))
            return out
        if isinstance(func, HigherOrderOperator):
            return self._branch(func, args)
        return self._made_of_others(func, types, args, kwargs)

    def _made_of_others(
        self, func: OpOverload, types: Sequence[type], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """What an operator without a formula is made of is seen, where it is made of others."""
        nested = any(isinstance(x, torch.Tensor) and x.is_nested for x in tree_leaves((args, dict(kwargs))))
        if not nested:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # a wrapper: what it does with the tensors inside is seen
        if multiplies(name_of(func), args, kwargs):
            raise _unknown(name_of(func))
        return func(*args, **kwargs)

    def _branch(self, func: HigherOrderOperator, args: Sequence[Any]) -> Any:
        """Of `torch.cond` the branch that is taken, seen; what other higher-order operators run is not known."""
        if func is not torch.ops.higher_order.cond:
            raise _unknown(name_of(func))
        condition, yes, no, operands = args
        with self:
            return (yes if condition else no)(*operands)


shown_to(_Mode, (torch.ops.higher_order.flex_attention, torch.ops.higher_order.cond), SHOWS_HIGHER_ORDER)


def _unknown(name: str) -> UnsupportedError:
    return UnsupportedError(
        f"multiply-accumulates: the operator {name} may multiply, and no formula for it is known, so that it cannot be "
        f"counted; say what it costs with dyt.measure.flops.register({name!r}, formula)"
    )
