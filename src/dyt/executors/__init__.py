"""MECHANISM, how the active tokens are computed: one file per executor."""

from dyt.core.execution import Executor, Mixing, MLPBranch, Pointwise, ResidualBranch, TokenCapacity
from dyt.deprecated import renamed
from dyt.executors.capacity import Capacity
from dyt.executors.masked import Masked
from dyt.executors.sparse import Sparse
from dyt.executors.sparse_backward import SparseBackward
from dyt.executors.triton import Triton
from dyt.executors.unseen import unseen, watching_unseen
from dyt.registry import executors

__all__ = [
    "Capacity",
    "Executor",
    "MLPBranch",
    "Masked",
    "Mixing",
    "Pointwise",
    "ResidualBranch",
    "Sparse",
    "SparseBackward",
    "TokenCapacity",
    "Triton",
    "unseen",
    "watching_unseen",
]

executors.accepts(Executor)

__getattr__ = renamed(__name__, {"Room": "TokenCapacity"})
