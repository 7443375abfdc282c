"""Image files as a trained model wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from dyt.model import DynamicModel


def read(model: DynamicModel, paths: Sequence[Path], trained: Path | None = None) -> tuple[Tensor, Tensor]:
    """Reads images and prepares them as at the model's test.

    Args:
        model: decides size and normalisation.
        paths: image files.
        trained: the model's file; a run.yaml beside it decides crop and interpolation, else a plain bicubic resize.

    Returns:
        (B, 3, H, W) in [0, 1] to look at, and the same normalised, to be given to the model. float32.

    Raises:
        ImageError: a file that cannot be read.
        UnsupportedError: a model that takes clips.
    """
    import torch

    from dyt.errors import UnsupportedError
    from dyt.tasks import DataSpec
    from dyt.tasks.kinds import task_of
    from dyt.tasks.layouts import files
    from dyt.tasks.loading import Preparation
    from dyt.train.state import run_of

    if len(model.head.input_shape((1, 1))) != 3:
        raise UnsupportedError(f"{paths[0]}: the model takes clips, not images; dyt predict draws the frames of clips")
    run = None if trained is None else run_of(trained)
    spec = DataSpec(root="", size=None if run is None else run.data.size)
    if run is not None and isinstance(run.data, DataSpec):
        spec = run.data
    preparation = Preparation.of(model.backbone, spec.size)
    examples = task_of(spec).sample(spec, files("images", paths, [0] * len(paths)), preparation)
    images = preparation.normalized(torch.stack([examples[i, 0][0] for i in range(len(paths))]))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preparation.mean, preparation.std))
    return (images * std + mean).clamp(0, 1), images
