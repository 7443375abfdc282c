"""What the dispatchers that learn a linear score of each token share: the fields of the sampling."""

from __future__ import annotations

from typing import ClassVar

from pydantic import field_validator

from dyt.config.schedules import Schedule, ends
from dyt.dispatchers.base import DispatcherSpec


class ScoredSpec(DispatcherSpec):
    """Fields of a dispatcher that samples in training; the defaults are the paper's."""

    over_training: ClassVar[tuple[str, ...]] = ("temperature", "noise")

    temperature: Schedule = 5.0
    """Temperature tau > 0 of the sigmoid whose gradient replaces that of the threshold (paper, eq. 4); 5 is the best in
    the paper's table 9, which also has a ramp from 5 to 0.1."""
    noise: Schedule = 1.0
    """Factor, at least 0, on the Gumbel noise that training adds to the scores; 1 in the paper. A ramp down to 0 makes
    the last steps of training decide as inference does."""

    @field_validator("temperature")
    @classmethod
    def _above_zero(cls, value: Schedule) -> Schedule:
        if min(ends(value)) <= 0:
            raise ValueError("temperature must be above 0")
        return value

    @field_validator("noise")
    @classmethod
    def _not_negative(cls, value: Schedule) -> Schedule:
        if min(ends(value)) < 0:
            raise ValueError("noise must not be below 0")
        return value
