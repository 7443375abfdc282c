"""Values that change over training: a number or a `Ramp`, and the descent of the target rate."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from dyt.config.base import Spec
from dyt.config.scalars import LARGEST_NUMBER

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]


class Ramp(Spec):
    """A value that changes over training, from `start` to `end`."""

    start: float
    """The value until `begin`."""
    end: float
    """The value from `until` on."""
    begin: Fraction = 0.0
    """Fraction of the training at which the value starts to change."""
    until: Fraction = 1.0
    """Fraction of the training at which the value has reached `end`; not before `begin`."""
    shape: Literal["linear", "cosine", "exponential"] = "linear"
    """How the value changes: `linear`; `cosine`, slow at both ends; `exponential`, by a constant factor per step, which
    needs `start` and `end` above 0."""

    @model_validator(mode="after")
    def _consistent(self) -> Ramp:
        if self.until < self.begin:
            raise ValueError(f"until ({self.until}) must not be before begin ({self.begin})")
        if self.shape == "exponential" and min(self.start, self.end) <= 0:
            raise ValueError("an exponential ramp needs start and end above 0")
        if self.shape == "exponential" and not 1 / LARGEST_NUMBER <= self.end / self.start <= LARGEST_NUMBER:
            raise ValueError(f"an exponential ramp changes its value by a factor of at most {LARGEST_NUMBER:g}")
        return self

    def at(self, progress: float) -> float:
        """The value at `progress` in [0, 1]; constant outside [begin, until]."""
        if progress >= self.until:
            return self.end
        if progress <= self.begin:
            return self.start
        t = (progress - self.begin) / (self.until - self.begin)
        if self.shape == "exponential":
            return self.start * math.pow(self.end / self.start, t)
        if self.shape == "cosine":
            t = (1 - math.cos(math.pi * t)) / 2
        return self.start + (self.end - self.start) * t


def _number_or_ramp(value: Any) -> str:
    return "ramp" if isinstance(value, (dict, Ramp)) else "number"


Schedule = Annotated[
    Annotated[float, Tag("number")] | Annotated[Ramp, Tag("ramp")],
    Discriminator(_number_or_ramp),  # so that a wrong value gets one error, for the kind it was meant to be
]
"""A constant, or a `Ramp`."""


def at(schedule: Schedule, progress: float) -> float:
    """The value of a constant or a `Ramp` at `progress` in [0, 1]."""
    return schedule.at(progress) if isinstance(schedule, Ramp) else schedule


def ends(schedule: Schedule) -> tuple[float, float]:
    """The extreme values of a schedule, for range checks."""
    return (schedule.start, schedule.end) if isinstance(schedule, Ramp) else (schedule, schedule)


class Descent(Spec):
    """The target rate over training: `start` until `begin`, then along `shape` down to the objective's `rate`."""

    start: Rate = 1.0
    """The target rate until `begin`."""
    begin: Fraction = 0.0
    """Fraction of the training at which the target rate starts to fall."""
    until: Fraction = 0.5
    """Fraction of the training at which the target rate has reached `objective.rate`; not before `begin`."""
    shape: Literal["linear", "cosine", "exponential"] = "cosine"
    """How the target rate changes: `linear`; `cosine`, slow at both ends; `exponential`, by a constant factor per
    step."""

    def towards(self, rate: float) -> Ramp:
        """The ramp that ends at `rate`.

        Raises:
            ValidationError: until before begin.
        """
        return Ramp(end=rate, **dict(self))
