"""MECHANISM, how the active tokens are computed: one file per executor."""

from dyt.executors.base import Executor, Mixing, Pointwise, Room
from dyt.executors.capacity import Capacity
from dyt.executors.masked import Masked
from dyt.executors.sparse import Sparse

__all__ = ["Capacity", "Executor", "Masked", "Mixing", "Pointwise", "Room", "Sparse"]
