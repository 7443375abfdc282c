"""Activation memory: what autograd keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(forward: Callable[[], Any], module: nn.Module) -> int:
    """Bytes that a forward keeps for its backward: the peak of saved activations of a training step.

    Every storage counts once, however many operations keep it; the module's parameters and buffers, which are there
    anyway, do not count. A backward pass frees them one after the other, so that nothing is above what the forward
    leaves. What is recomputed under activation checkpointing is not among it.

    Args:
        forward: runs it, and returns what is to be differentiated, so that the graph is alive while it is counted.
        module: whose parameters and buffers are left out.
    """
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    held: dict[int, Tensor] = {}  # kept alive, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held.setdefault(storage.data_ptr(), tensor.detach())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward()
    del kept
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())
