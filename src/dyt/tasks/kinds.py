"""The tasks by name, and what `data` of a run may be."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

from pydantic import PlainSerializer, PlainValidator, SerializationInfo
from pydantic_core import PydanticCustomError

from dyt.config.base import Spec
from dyt.errors import nearest, quoted
from dyt.tasks.base import Task
from dyt.tasks.classification import Classification
from dyt.tasks.data import DataSpec
from dyt.tasks.detection import Detection, DetectionSpec
from dyt.tasks.features import Features, FeaturesSpec
from dyt.tasks.segmentation import Segmentation, SegmentationSpec
from dyt.tasks.video import Video, VideoSpec

TASKS: Mapping[str, Task] = MappingProxyType(
    {task.name: task for task in (Classification(), Video(), Segmentation(), Detection(), Features())}
)
"""By name; a head's `task` is one of them."""


def _of_its_task(value: Any) -> Any:
    """Data of the task that `task` names, classification by default, validated by that task's own spec alone."""
    if isinstance(value, Spec):
        return value
    if not isinstance(value, Mapping):
        raise PydanticCustomError("no_data", "needs a mapping, with at least 'root'")
    name = value.get("task", Classification.name)
    if not isinstance(name, str) or name not in TASKS:
        raise PydanticCustomError("unknown_task", f"no task {quoted(name)}; {nearest(name, list(TASKS))}")
    return TASKS[name].Spec.model_validate(value)


def _plain(spec: Spec, info: SerializationInfo) -> dict[str, Any]:
    return spec.model_dump(mode=info.mode)


_Specs: TypeAlias = DataSpec | VideoSpec | SegmentationSpec | DetectionSpec | FeaturesSpec
AnyDataSpec: TypeAlias = Annotated[
    _Specs,
    PlainValidator(_of_its_task, json_schema_input_type=_Specs),
    PlainSerializer(_plain, return_type=dict[str, Any]),
]


def task_of(spec: AnyDataSpec) -> Task:
    """The task that this data is for."""
    return TASKS[spec.task]
