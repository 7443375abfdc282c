"""The one table of formulas: which operators are counted, and by what. Whoever brings an operator adds its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.utils.flop_counter import flop_registry

from dyt.errors import DyTError
from dyt.measure.flops.attention import ATTENTION
from dyt.measure.flops.products import PRODUCTS, Formula

OURS: dict[str, Formula] = {**PRODUCTS, **ATTENTION}
"""torch's products, by operator."""
_ADDED: dict[str, Formula] = {}


def name_of(operator: Any) -> str:
    """`namespace::name` of an operator, without its overload; a name as it is.

    Raises:
        DyTError: something that is no operator of torch's dispatcher.
    """
    if isinstance(operator, str):
        return operator
    if isinstance(operator, OpOverload | HigherOrderOperator):
        return str(operator).replace(".", "::", 1).partition(".")[0]
    if isinstance(operator, OpOverloadPacket):
        return str(operator).replace(".", "::", 1)
    custom = getattr(operator, "_opoverload", None)  # what torch.library.custom_op returns
    if isinstance(custom, OpOverload):
        return name_of(custom)
    raise DyTError(
        f"register: {operator!r} is no operator; give torch.ops.NAMESPACE.NAME, what torch.library.custom_op returned, "
        f"or 'NAMESPACE::NAME'"
    )


def register(operator: Any, formula: Formula) -> None:
    """Says what an operator costs, for every count from now on. A plug-in calls it where it defines its operator.

    Args:
        operator: `torch.ops.namespace.name`, what `torch.library.custom_op` returned, or `"namespace::name"`.
        formula: called as `formula(out, *args, **kwargs)` with the operator's result and its arguments, tensors as they
            are, of which it should read shapes alone; returns multiply-accumulates (not two operations for each), int.
            For an operator that multiplies no matrices: `lambda *args, **kwargs: 0`.

    Raises:
        DyTError: no operator, or one that has a formula.
    """
    name = name_of(operator)
    if name in OURS or name in _ADDED:
        raise DyTError(f"register: {name} has a formula already; each operator has one")
    _ADDED[name] = formula


def formula_of(operator: Any) -> Formula | None:
    """The operator's formula; None where none is known.

    Ours come first, so that a count does not depend on what this version of torch knows. An operator that only torch
    has a formula for (`torch.utils.flop_counter.register_flop_formula`) is counted by that.
    """
    name = name_of(operator)
    found = OURS.get(name) or _ADDED.get(name)
    if found is not None:
        return found
    key: Hashable = operator.overloadpacket if isinstance(operator, OpOverload) else operator
    known = flop_registry.get(key)
    return None if known is None else _halved(known)


def _halved(flops: Callable[..., int]) -> Formula:
    """Of torch's own formulas, which count two operations for each."""
    return lambda out, *args, **kwargs: int(flops(*args, **kwargs, out_val=out)) // 2
