"""The spec of the fine-tuning loss, and of the target rate at each step."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dyt.config.base import Spec
from dyt.config.schedules import Descent, Rate, Schedule, ends

_GOLDEN = (math.sqrt(5) - 1) / 2


class ObjectiveSpec(Spec):
    """The fine-tuning loss (paper, section 3.5).

    L = CE(dynamic) + complete * CE(complete) + distill * KL(complete || dynamic) + rate_weight * (rate of M - rate)^2,
    where "complete" is the model with every token active and M are the dispatchers' masks.
    """

    rate: Rate = 0.5
    """The target activation rate r: the share of patch tokens that are active, over all sites and images."""
    layer_rates: tuple[Rate, ...] | None = None
    """Target rates of the dynamic blocks, one for each, in order. Their mean is `rate`, which is then left out. The
    penalty is the mean over sites of each site's squared difference, and thresholds are kept site by site. Null for one
    rate over all sites, as in the paper."""
    rate_weight: Annotated[float, Field(ge=0.0)] = 2.0
    """Weight alpha of the rate penalty (rate of M - r)^2; 2 in the paper."""
    complete: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the complete model's cross entropy. With this and `distill` at 0 no complete pass is run (paper, table
    12), unless `features` needs it."""
    distill: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of KL(complete || dynamic), the complete model's outputs detached."""
    features: Schedule = 0.0
    """Weight of the distance between the model's features and the teacher's at the entry of each site: squared distance
    over variance, of the class token (without one, of the mean patch token; of every patch token where the head reads
    those). 0 in the paper; a remedy for short runs."""
    teacher: Literal["complete", "pretrained"] = "complete"
    """What `features` compares with. `complete`: the complete pass of the same step, which is being trained as well;
    `pretrained`: the backbone with every token, without adapters and reducers, which costs a forward and no backward,
    and is refused with a tuner, `modules_to_save` or `trainable: full`."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Softens both sides of the KL term, which is multiplied by the temperature's square, as in distillation; 1 in the
    paper."""
    asked: Descent | None = None
    """How the target rate falls to `rate` over training. Null for `rate` from the first step on, as in the paper."""
    spread: tuple[Rate, Rate] | None = None
    """The lowest and the highest target rate of a step, where each step has its own, evenly between, so that one model
    serves at any of them; `rate` is the bound where it lies beyond one. `asked` lets the lowest fall. `control:
    threshold` sets the rates; at the end of a run the thresholds are those of `rate`. Null for the same target at every
    step."""
    control: Literal["loss", "threshold"] = "loss"
    """What keeps the activation rate at its target. `loss`: the squared penalty alone, as in the paper; `threshold`: a
    threshold on the logits of all sites, moved after every step to where the target share of the step's tokens lies
    above it, so that routers learn which tokens matter and not how many."""
    router_gradient: Literal["all", "sampled", "active", "none"] = "all"
    """Which tokens' branches tell the dispatchers how to change. `all`: every token's, so that inactive ones are
    computed as well, as in the paper; `sampled`: those of active tokens and of a random share of the others; `active`:
    those of active tokens; `none`: dispatchers stay as they start, and inactive tokens cost nothing. The rate is then
    kept by `control: threshold`."""
    router_sample: Rate = 0.1
    """With `router_gradient: sampled`: the probability with which an inactive token is computed. Its gradient is
    divided by it, which leaves the expected gradient that of `all`."""
    complete_share: Rate = 1.0
    """Share of each batch, its first images and at least one, on which the complete pass is run; the terms are means
    over these images. Below 1 saves time, which the paper does not do."""
    complete_every: Annotated[int, Field(ge=1)] = 1
    """The complete pass is run at every k-th step, counted from 0, with `complete` and `distill` k times as large; at
    the other steps both terms are 0. Above 1 saves time, which the paper does not do."""

    @model_validator(mode="before")
    @classmethod
    def _mean_rate(cls, data: Any) -> Any:
        """Where only `layer_rates` is given, `rate` is its mean."""
        if isinstance(data, dict) and "rate" not in data and isinstance(data.get("layer_rates"), (list, tuple)):
            rates = data["layer_rates"]
            if rates and all(isinstance(rate, (int, float)) for rate in rates):
                return {**data, "rate": math.fsum(rates) / len(rates)}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> ObjectiveSpec:
        thinned = self.complete_share < 1 or self.complete_every > 1
        if thinned and max(ends(self.features)) > 0 and self.teacher == "complete":
            raise ValueError(
                "complete_share and complete_every leave images without the complete pass that `features` compares all "
                "of them with; leave them out, or use teacher: pretrained"
            )
        if self.router_gradient == "none" and self.rate_weight > 0:
            raise ValueError(
                "router_gradient: none leaves dispatchers as they are, so that no penalty moves the rate; set "
                "rate_weight: 0 and control: threshold"
            )
        if self.spread is not None:
            low, high = self.spread
            if self.control != "threshold" or self.layer_rates is not None:
                raise ValueError("spread is kept by thresholds of all sites; set control: threshold, no layer_rates")
            if low > high:
                raise ValueError(f"spread is [lowest, highest]; given [{low:g}, {high:g}]")
        if self.asked is not None:
            self.asked.towards(self.rate)
        if self.layer_rates is not None:
            if not self.layer_rates:
                raise ValueError("layer_rates has one rate for each dynamic block; leave it out for `rate` in all")
            mean = math.fsum(self.layer_rates) / len(self.layer_rates)
            if abs(mean - self.rate) > 1e-6:
                raise ValueError(f"the mean of layer_rates is {mean:g} and rate is {self.rate:g}; leave rate out")
        return self

    @field_validator("features")
    @classmethod
    def _not_negative(cls, value: Schedule) -> Schedule:
        if min(ends(value)) < 0:
            raise ValueError("features must not be below 0")
        return value

    def asked_rate(self, progress: float, step: int | None = None) -> float:
        """The target rate at `progress` in [0, 1] of the training; with `spread` that of the step of this number.

        Steps of consecutive numbers have rates far apart, and any number of them cover the range evenly: multiples of
        the golden ratio, modulo 1.
        """
        if self.spread is None or step is None:
            return self.asked_of(self.rate, progress)
        low, high = min(self.spread[0], self.rate), max(self.spread[1], self.rate)
        low = self.asked_of(low, progress)
        return low + max(high - low, 0.0) * math.fmod((step + 1) * _GOLDEN, 1.0)

    def asked_of(self, rate: float, progress: float) -> float:
        """The target at `progress` in [0, 1] of the training, of a rate that is to be `rate` at its end."""
        return rate if self.asked is None else self.asked.towards(rate).at(progress)
