"""MECHANISM, how the active tokens are computed: one file per executor."""

from dyt.executors.base import Executor, Mixing, Pointwise, ResidualBranch
from dyt.executors.masked import Masked
from dyt.executors.sparse import Sparse

__all__ = ["Executor", "Masked", "Mixing", "Pointwise", "ResidualBranch", "Sparse"]
