"""What multiply-accumulates are counted with: one counter, one table of formulas, and `register` to add to it."""

from dyt.measure.flops.counter import MacCounter
from dyt.measure.flops.products import Formula
from dyt.measure.flops.table import formula_of, register

__all__ = ["Formula", "MacCounter", "formula_of", "register"]
