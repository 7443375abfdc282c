"""`triton`: MLP branches on an NVIDIA GPU in three kernels, with the number of active tokens read on the device."""

from dyt.executors.triton.executor import Triton

__all__ = ["Triton"]
