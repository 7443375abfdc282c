"""The tasks by name, and what `data` of a run may be."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from dyt.tasks.base import Task
from dyt.tasks.classification import Classification
from dyt.tasks.data import DataSpec
from dyt.tasks.segmentation import Segmentation, SegmentationSpec

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in (Classification(), Segmentation())})
"""By name; a head's `task` is one of them."""


def _task(value: Any) -> Any:
    """Whose spec this is; data that does not say is of classification."""
    return value.get("task", Classification.name) if isinstance(value, Mapping) else getattr(value, "task", None)


AnyDataSpec = Annotated[
    Annotated[DataSpec, Tag(Classification.name)] | Annotated[SegmentationSpec, Tag(Segmentation.name)],
    Discriminator(_task),
]


def task_of(spec: AnyDataSpec) -> Task:
    """The task that this data is for."""
    return TASKS[spec.task]
