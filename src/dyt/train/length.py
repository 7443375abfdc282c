"""How many optimiser steps a run has."""

from __future__ import annotations

from dataclasses import dataclass

from dyt.errors import SpecError
from dyt.tasks.data import Data
from dyt.train.spec import TrainSpec


@dataclass(frozen=True)
class Length:
    """Optimiser steps of an epoch and of the whole run."""

    per_epoch: int
    steps: int

    @classmethod
    def of(cls, train: TrainSpec, data: Data, world: int) -> Length:
        """Of a run on so many processes.

        Raises:
            SpecError: sizes that do not divide among them, or too few images.
        """
        size, shares, count = train.batch_size, world * train.accumulate, len(data.train)
        if size % shares:
            raise SpecError(
                f"train.batch_size is {size}, which does not divide among {world} processes x accumulate "
                f"{train.accumulate}"
            )
        if count < size:
            raise SpecError(
                f"train.batch_size is {size}, but the training split has {count} images; set it to {count} or less"
            )
        if len(data.test) < world:
            raise SpecError(f"the test split has {len(data.test)} images for {world} processes; use fewer")
        return cls(count // size, count // size * train.epochs)
