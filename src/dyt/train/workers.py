"""How many loader processes to use."""

from __future__ import annotations

import os

MOST = 4


def worker_count(asked: int | None) -> int:
    """What was asked, else up to four, one less than the cores that this process may use."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(MOST, cores - 1), 0)
