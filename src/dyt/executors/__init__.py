"""MECHANISM, how the active tokens are computed: one file per executor."""

from dyt.executors.base import Executor, Mixing, MLPBranch, Pointwise, ResidualBranch, Room
from dyt.executors.capacity import Capacity
from dyt.executors.masked import Masked
from dyt.executors.sparse import Sparse
from dyt.executors.sparse_backward import SparseBackward
from dyt.executors.triton import Triton
from dyt.executors.unseen import unseen, watching_unseen

__all__ = [
    "Capacity",
    "Executor",
    "MLPBranch",
    "Masked",
    "Mixing",
    "Pointwise",
    "ResidualBranch",
    "Room",
    "Sparse",
    "SparseBackward",
    "Triton",
    "unseen",
    "watching_unseen",
]
