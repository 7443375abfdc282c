"""Image files, prepared for a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from dyt.model.dynamic import DynamicModel


def read(model: DynamicModel, paths: Sequence[Path], trained: Path | None = None) -> tuple[Tensor, Tensor]:
    """Reads images and prepares them as at the model's test.

    Args:
        model: decides size and normalisation.
        paths: image files.
        trained: the model's file; where it does not say how images were cropped and resized, a run.yaml beside it does,
            else it is a plain bicubic resize.

    Returns:
        (B, C, H, W) in [0, 1] to look at, and the same normalised, to be given to the model. float32.

    Raises:
        ImageError: a file that cannot be read.
        UnsupportedError: a model that takes clips.
    """
    import torch

    from dyt.core.data_config import attached
    from dyt.errors import UnsupportedError
    from dyt.tasks import DataSpec
    from dyt.tasks.described import data_of
    from dyt.tasks.features import FeaturesSpec
    from dyt.tasks.kinds import task_of
    from dyt.tasks.layouts import files
    from dyt.tasks.preparation import Preparation
    from dyt.train.state import run_of

    if len(model.head.input_shape((1, 1))) != 3:
        raise UnsupportedError(f"{paths[0]}: the model takes clips, not images; dyt predict draws the frames of clips")
    run, config = None if trained is None else run_of(trained), attached(model.backbone)
    data = None if run is None else run.data
    if config is not None:
        data = data_of(config, model.head.task, "", trained) or data
    if not isinstance(data, (DataSpec, FeaturesSpec)):
        data = DataSpec(root="", size=None if data is None else data.size)
    preparation = Preparation.of(model.backbone, data.size)
    examples = task_of(data).sample(data, files("images", paths, [0] * len(paths)), preparation)
    images = preparation.normalized(torch.stack([examples[i, 0][0] for i in range(len(paths))]))
    return preparation.shown(images), images
