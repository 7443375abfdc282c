"""The tasks by name, and what `data` of a run may be."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dyt.tasks.base import Task
from dyt.tasks.classification import Classification
from dyt.tasks.data import DataSpec

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in (Classification(),)})
"""By name; a head's `task` is one of them."""

AnyDataSpec = DataSpec


def task_of(spec: AnyDataSpec) -> Task:
    """The task that this data is for."""
    return TASKS[spec.task]
