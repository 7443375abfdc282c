"""What the dispatchers that learn a linear score of each token share: the fields of the sampling."""

from __future__ import annotations

from typing import ClassVar

from pydantic import field_validator

from dyt.config.spec import Schedule, ends
from dyt.dispatchers.base import DispatcherSpec


class ScoredSpec(DispatcherSpec):
    """Fields of a dispatcher that samples in training; the defaults are the paper's.

    `temperature`: tau of the sigmoid whose gradient is taken, constant or a ramp over training (table 9: 5 to 0.1).
    `noise`: factor on the Gumbel noise, constant or a ramp over training; 0 at the end makes what was trained
    what runs.
    """

    over_training: ClassVar[tuple[str, ...]] = ("temperature", "noise")

    temperature: Schedule = 5.0
    noise: Schedule = 1.0

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
