"""Generators of random numbers that everything in a process shares: torch's of each device, NumPy's and Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def untouched() -> Iterator[None]:
    """What is drawn inside is not drawn outside: the generators are in the end as they were. Also a decorator."""
    states = random.getstate(), np.random.get_state()
    kind, devices = _devices()
    try:
        with torch.random.fork_rng(devices, device_type=kind):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _devices() -> tuple[str, list[int]]:
    """The accelerator whose generators may be drawn from, and its devices; none where it is not in use yet.

    Asking for the state of an unused one would start it, which a forked process cannot do.
    """
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return "cuda", []
    module = torch.get_device_module(accelerator)
    started = getattr(module, "is_initialized", None)  # MPS has none, nor generators by device
    used = started is not None and (started() or torch.get_default_device().type == accelerator.type)
    return accelerator.type, list(range(torch.accelerator.device_count())) if used else []
