"""What the untuned backbone gives at each site (`teacher: pretrained`), computed once for images that do not change."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyt.core import context, ranks
from dyt.core.route import Route
from dyt.errors import DyTError
from dyt.model.dynamic import DynamicModel
from dyt.objective.joint import rows

IN_MEMORY = 2**28
"""Bytes of features above which they are kept in a file."""


@torch.no_grad()
def teacher_rows(model: DynamicModel, images: Any, features: bool = True) -> list[Tensor]:
    """For each site what the model without adapters and reducers, every token active, gives of images (B, 3, H, W).

    Args:
        model: the dynamic model.
        images: as the head takes them.
        features: whether sites are read at all, which only the term `features` needs.

    Returns:
        (M, C) float32 for each site: the class token that enters it, or the mean patch token where there is none; every
        patch token where the head reads those. Behind them, of a head that is taught by this pass, its outputs (M, C).
    """
    routes: list[Route] = []
    head = model.head
    with context.changed(model.key, complete=True, plain=True, keep_tokens=features, records=(routes,)):
        given = model(images) if head.taught else model.forward_features(head.frames(images))
    found = [rows(route, head.reads_patches) for route in routes] if features else []
    return [*found, as_rows(given)] if head.taught else found


def as_rows(outputs: Tensor) -> Tensor:
    """(M, C) float32: outputs (B, ..., C) of a head that is taught by the pretrained pass, as they are kept."""
    return outputs.flatten(0, -2).float()


class TeacherFeatures:
    """The rows of `teacher_rows` of many images, by the images' positions.

    In memory, or where they are large in a file without a name in `scratch`, which ends with the process.

    Args:
        count: number of images.
        like: the rows of a batch, which tell the shapes; all images have the same.
        images: how many the batch has.
        scratch: the directory of the file.

    Raises:
        DyTError: the file cannot be made.
    """

    def __init__(self, count: int, like: Sequence[Tensor], images: int, scratch: Path) -> None:
        self.shapes = [(len(each) // images, each.shape[1]) for each in like]
        self.sizes = [height * width for height, width in self.shapes]
        shape, nbytes = (count, sum(self.sizes)), self.needed(count, like, images)
        if nbytes <= IN_MEMORY:
            self._store = torch.zeros(shape)
            return
        try:
            with tempfile.TemporaryFile(dir=scratch) as file:
                if hasattr(os, "posix_fallocate"):  # else a full disk would end the process at a later write
                    os.posix_fallocate(file.fileno(), 0, nbytes)
                self._store = torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))
        except OSError as error:
            raise DyTError(
                f"the teacher's features take {nbytes / 2**30:.1f} GiB in '{scratch}': {error.strerror}; make "
                f"room, or compute them at every step with train.keep_teacher: false"
            ) from error

    @staticmethod
    def needed(count: int, like: Sequence[Tensor], images: int) -> int:
        """Bytes that the features of so many images take; the arguments are those of the class."""
        return 4 * count * sum(each.numel() // images for each in like)

    def put(self, positions: Sequence[int], found: Sequence[Tensor]) -> None:
        """Takes in the rows of the images at these positions."""
        flat = [each.reshape(len(positions), -1).cpu() for each in found]
        self._store[torch.tensor(positions)] = torch.cat(flat, 1)

    def join(self, device: torch.device, step: int = 256) -> None:
        """Joins what the processes took in, each of its own images; every process must call."""
        if ranks.several():
            for part in torch.split(self._store, step):
                part.copy_(ranks.total(part.to(device, copy=True))[0])

    def rows(self, positions: Sequence[int], device: torch.device) -> list[Tensor]:
        """(M, C) float32 for each site, of the images at these positions, on the device."""
        found = torch.split(self._store[torch.tensor(positions)].to(device), self.sizes, 1)
        return [each.reshape(-1, width) for each, (_, width) in zip(found, self.shapes, strict=True)]
