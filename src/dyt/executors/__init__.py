"""MECHANISM, how the active tokens are computed: one file per executor."""

from dyt.executors.base import Executor, Mixing, Pointwise
from dyt.executors.masked import Masked
from dyt.executors.sparse import Sparse
from dyt.executors.sparse_backward import SparseBackward

__all__ = ["Executor", "Masked", "Mixing", "Pointwise", "Sparse", "SparseBackward"]
