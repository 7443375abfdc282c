"""What a model is trained on, in timm's words and whole, so that its file needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dyt.config.spec import parse
from dyt.core.data_config import DataConfig
from dyt.errors import CheckpointError, SpecError, shortened
from dyt.tasks.kinds import TASKS, AnyDataSpec
from dyt.tasks.preparation import Preparation

PLACE = frozenset({"root", "workers", "cache"})
"""Fields of data specs that say where data lies and how it is read, which is nobody's but the run's."""
RESIZES: Mapping[str, Mapping[str, Any]] = {
    "none": {"crop_pct": 1.0, "crop_mode": "squash"},
    "crop": {"crop_pct": 0.875, "crop_mode": "center"},
    "timm": {"crop_pct": 0.875, "crop_mode": "center"},
}
"""By `augment` of classification: the resize at inference in timm's words."""


def described(spec: AnyDataSpec, preparation: Preparation, classes: Sequence[str]) -> DataConfig:
    """What a model is trained on that is given this data, so prepared, to tell these classes apart."""
    data = spec.model_dump(mode="json", exclude=set(PLACE)) | {"size": list(preparation.size)}
    how = RESIZES[str(data["augment"])] if spec.task == "classification" else {}
    if spec.task == "features":  # prepared as the encoder itself says
        how = {"crop_pct": preparation.crop_pct, "crop_mode": preparation.crop_mode}
    return DataConfig(
        input_size=(preparation.channels, *preparation.size),
        interpolation=str(data.get("interpolation", "bilinear") or preparation.interpolation),
        mean=preparation.mean,
        std=preparation.std,
        label_names=tuple(classes) or None,
        data=data,
        **how,
    )


def data_of(config: DataConfig, task: str, root: str, path: object) -> AnyDataSpec | None:
    """The data spec that a file's config has, for images in `root`; None where it has none.

    Raises:
        CheckpointError: one that does not validate, or of another task.
    """
    if config.data is None:
        return None
    try:
        made: AnyDataSpec = parse(TASKS[task].Spec, {**config.data, "root": root})
    except SpecError as error:
        raise CheckpointError(shortened(f"'{path}': what it was trained on cannot be used: {error}", 600)) from error
    return made
