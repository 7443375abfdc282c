"""The tasks by name, and what `data` of a run may be."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from dyt.tasks.base import Task
from dyt.tasks.classification import Classification
from dyt.tasks.data import DataSpec
from dyt.tasks.video import Video, VideoSpec

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in (Classification(), Video())})
"""By name; a head's `task` is one of them."""


def _task_name(value: Any) -> Any:
    """What tells the specs apart; of data that does not say, classification."""
    return value.get("task", "classification") if isinstance(value, Mapping) else getattr(value, "task", None)


AnyDataSpec = Annotated[
    Annotated[DataSpec, Tag("classification")] | Annotated[VideoSpec, Tag("video")], Discriminator(_task_name)
]


def task_of(spec: AnyDataSpec) -> Task:
    """The task that this data is for."""
    return TASKS[spec.task]
