"""The specs that a model is assembled from: plain, frozen, validated data that survives JSON and YAML unchanged."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, JsonValue, Tag, ValidationError, field_validator, model_validator

from dyt.config.base import ComponentSpec, Slot, Spec
from dyt.errors import SpecError
from dyt.registry import KINDS

S = TypeVar("S", bound=Spec)
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
NO_PRETRAINED = (
    "objective.teacher: 'pretrained' needs a frozen backbone, without a tuner, modules_to_save or trainable: full; "
    "leave that out or use 'complete'"
)


class Ramp(Spec):
    """A value that moves from `start` to `end` while the training's progress goes from `begin` to `until` (fractions).

    `shape`: linear; cosine (slow at both ends); exponential (a constant factor a step, both ends above 0).
    """

    start: float
    end: float
    begin: Fraction = 0.0
    until: Fraction = 1.0
    shape: Literal["linear", "cosine", "exponential"] = "linear"

    @model_validator(mode="after")
    def _consistent(self) -> Ramp:
        if self.until < self.begin:
            raise ValueError(f"until ({self.until}) must not be before begin ({self.begin})")
        if self.shape == "exponential" and min(self.start, self.end) <= 0:
            raise ValueError("an exponential ramp needs start and end above 0")
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
    Discriminator(_number_or_ramp),  # so that a wrong one is answered once, for what it was meant to be
]
"""A constant, or a `Ramp`."""


def at(schedule: Schedule, progress: float) -> float:
    """The value of a constant or a `Ramp` at `progress` in [0, 1]."""
    return schedule.at(progress) if isinstance(schedule, Ramp) else schedule


def ends(schedule: Schedule) -> tuple[float, float]:
    """The extreme values of a schedule, for range checks."""
    return (schedule.start, schedule.end) if isinstance(schedule, Ramp) else (schedule, schedule)


class Descent(Spec):
    """The asked rate over training: from `start` to the objective's, while progress goes from `begin` to `until`."""

    start: Rate = 1.0
    begin: Fraction = 0.0
    until: Fraction = 0.5
    shape: Literal["linear", "cosine", "exponential"] = "cosine"

    def towards(self, rate: float) -> Ramp:
        """The ramp that ends at `rate`.

        Raises:
            ValidationError: until before begin.
        """
        return Ramp(end=rate, **dict(self))


class BackboneSpec(Spec):
    """The timm model that is adapted.

    `name`: as for `timm.create_model`. `weights`: `pretrained` (timm's hub weights for that name), `none` (random), or
    the path of a local file (.safetensors, or .pth holding tensors only). `args`: plain values for `timm.create_model`.
    A model that was built on a backbone that was given (`backbone=`) has `weights: given`, and as name the timm name of
    that model, or its class's.

    `window_size`: attention of a plain ViT within windows of at most so many patches of a side, as equal as the grid
    allows, for large images (ViTDet); None for global attention. `global_attn_indexes`: the blocks, counted from 0,
    whose attention stays global; by default the last of each quarter of the depth (2, 5, 8, 11 of 12).
    """

    name: str = "vit_base_patch16_224.augreg_in21k"
    weights: str = "pretrained"
    args: dict[str, JsonValue] = Field(default_factory=dict)
    window_size: Annotated[int, Field(ge=1)] | None = None
    global_attn_indexes: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _used(self) -> BackboneSpec:
        if self.global_attn_indexes is not None and self.window_size is None:
            raise ValueError("global_attn_indexes are the blocks without windows; set window_size, or leave them out")
        return self

    @field_validator("args")
    @classmethod
    def _ours(cls, args: dict[str, JsonValue]) -> dict[str, JsonValue]:
        taken = {
            "num_classes": "head.num_classes",
            "pretrained": "backbone.weights",
            "checkpoint_path": "backbone.weights",
        }
        for name, field in taken.items():
            if name in args:
                raise ValueError(f"'{name}' is not an argument here; set {field}")
        return args


class HeadSpec(ComponentSpec):
    """The head: `type` is the name that it is registered under, `num_classes` what it tells apart.

    Of `classifier`, the backbone's own, 0 classes are none (features). Base of the specs of all heads.
    """

    type: str = "classifier"
    num_classes: Annotated[int, Field(ge=0)] = 100

    @property
    def classifier(self) -> int:
        """Outputs of the backbone's own classifier; 0 where another head takes its place."""
        return self.num_classes


class ObjectiveSpec(Spec):
    """The fine-tuning loss (paper section 3.5): CE(dynamic) + complete CE(complete) + distill KL + weight (rate - r)^2.

    `rate`: the asked activation rate r. `layer_rates`: one rate for each dynamic block, in order, whose mean is `rate`;
    the penalty is then the mean over the sites of each one's own square. `rate_weight`: alpha, 2 in the paper.
    `complete`, `distill`: weights of the complete model's cross entropy and of KL(complete || dynamic); with both 0 the
    complete pass is not run (table 12). `features`: of how far the class token on its way through the blocks, or every
    patch token where the head reads those, is from the teacher's, a number or a `Ramp`; 0 in the paper. `teacher`: the
    `complete` pass of the same step, which learns as well, or the `pretrained` backbone (all tokens, no adapters or
    reducers), which stays and needs no gradient. `temperature`: softens both sides of the KL term (times its square, as
    in distillation). `asked`: how the asked rate comes down to `rate` over training; None asks for `rate` from the
    first step, as the paper does. `control`: what keeps the rate: `loss`, the paper's squared penalty alone; or
    `threshold`, one threshold for the logits of all sites, moved after every step to where the asked share of the
    step's tokens is above it, so that the routers learn which tokens matter and not how many there should be.
    `complete_share`, `complete_every`: savings that are not the paper's: the complete pass is run on that share of each
    batch (its first images, at least one), or at every k-th step only, whose `complete` and `distill` then weigh k
    times as much; 1 and 1 in the paper.
    """

    rate: Rate = 0.5
    layer_rates: tuple[Rate, ...] | None = None
    rate_weight: Annotated[float, Field(ge=0.0)] = 2.0
    complete: Annotated[float, Field(ge=0.0)] = 1.0
    distill: Annotated[float, Field(ge=0.0)] = 1.0
    features: Schedule = 0.0
    teacher: Literal["complete", "pretrained"] = "complete"
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    asked: Descent | None = None
    control: Literal["loss", "threshold"] = "loss"
    complete_share: Rate = 1.0
    complete_every: Annotated[int, Field(ge=1)] = 1

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

    def asked_rate(self, progress: float) -> float:
        """The rate asked for at `progress` in [0, 1] of the training."""
        return self.asked_of(self.rate, progress)

    def asked_of(self, rate: float, progress: float) -> float:
        """What is asked for at `progress` in [0, 1] of the training where `rate` is asked for at its end."""
        return rate if self.asked is None else self.asked.towards(rate).at(progress)


class CapacitySpec(Spec):
    """How many tokens the executor `capacity` makes room for; `dyt.calibrate_capacity` sets it.

    `share`: of a site's tokens, prefix included: one number for all sites, or one for each in their order. `overflow`:
    what happens where more tokens are active: `dense` (the branch is run densely in that forward, with the same
    numbers) or `nan` (all outputs of the images concerned are NaN; the device is never waited for).
    """

    share: Rate | tuple[Rate, ...] = 1.0
    overflow: Literal["dense", "nan"] = "dense"


class DyTSpec(Spec):
    """A dynamic vision transformer: which backbone, what is dispatched where and by whom, which adapter, which loss.

    The defaults are the paper's. `tuner`: how the backbone itself is tuned (LoRA, prompts, biases; the paper's
    baselines), None for not at all. `reducer`: what lowers the number of tokens from block to block, a peer of DyT that
    can be had with it or instead; None for nothing. `trainable`: `adapters` (adapters, dispatchers, head and what the
    tuner trains; the backbone is frozen) or `full` (everything, the paper's dynamic_full). `modules_to_save`: further
    modules or parameters of the backbone that are trained and stored, by their timm names (`norm`, `blocks.11`), as in
    peft. `capacity`: the room that the executor `capacity` has, None for all tokens; it changes nothing elsewhere.
    """

    backbone: BackboneSpec = BackboneSpec()
    head: Annotated[HeadSpec, Slot("heads", default="classifier")] = Field(
        default={"type": "classifier"}, validate_default=True
    )
    variant: Annotated[ComponentSpec, Slot("variants", default="mlp")] = Field(
        default={"type": "mlp"}, validate_default=True
    )
    dispatcher: Annotated[ComponentSpec, Slot("dispatchers", default="learned")] = Field(
        default={"type": "learned"}, validate_default=True
    )
    adapter: Annotated[ComponentSpec, Slot("adapters", default="bottleneck")] = Field(
        default={"type": "bottleneck"}, validate_default=True
    )
    tuner: Annotated[ComponentSpec, Slot("tuners")] | None = None
    objective: ObjectiveSpec = ObjectiveSpec()
    trainable: Literal["adapters", "full"] = "adapters"
    modules_to_save: tuple[str, ...] = ()
    reducer: Annotated[ComponentSpec, Slot("reducers")] | None = None
    capacity: CapacitySpec | None = None

    @model_validator(mode="after")
    def _one_way(self) -> DyTSpec:
        if self.tuner is not None and self.trainable == "full":
            raise ValueError(f"trainable: full trains the whole backbone; leave out it or tuner '{self.tuner.type}'")
        if self.modules_to_save and self.trainable == "full":
            raise ValueError("trainable: full trains and stores the whole backbone; leave out it or modules_to_save")
        return self

    @field_validator("modules_to_save", mode="before")
    @classmethod
    def _names(cls, names: Any) -> Any:
        """One name stands for a list of it, and null for none."""
        return () if names is None else (names,) if isinstance(names, str) else names

    @model_validator(mode="after")
    def _consistent(self) -> DyTSpec:
        if self.objective.teacher == "pretrained" and not self.keeps_pretrained:
            raise ValueError(NO_PRETRAINED)
        return self

    @model_validator(mode="after")
    def _has_the_terms(self) -> DyTSpec:
        reason = KINDS["heads"].get(self.head.type).divergence_refusal
        if reason is not None and self.objective.distill > 0:
            raise ValueError(f"objective.distill: head '{self.head.type}' has no such term: {reason}; set distill: 0")
        return self

    @property
    def keeps_pretrained(self) -> bool:
        """Whether the model can still compute what its backbone did before it was tuned."""
        return self.trainable == "adapters" and self.tuner is None and not self.modules_to_save

    @property
    def says_classes(self) -> bool:
        """Whether `head.num_classes` was given, and is not a default."""
        return "head" in self.model_fields_set and "num_classes" in self.head.model_fields_set

    def with_classes(self, count: int) -> DyTSpec:
        """This spec for so many classes."""
        return self.model_copy(update={"head": self.head.model_copy(update={"num_classes": count})})


def parse(cls: type[S], data: Any) -> S:
    """`cls.model_validate(data)`, with the answer to bad data in one line.

    Raises:
        SpecError: naming every wrong field, what was given and what is allowed.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise SpecError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """A pydantic error as one line: `field: what is wrong (given ...)`, joined by semicolons."""
    return "; ".join(
        f"{'.'.join(str(part) for part in line['loc']) or error.title}: {line['msg']} (given {_short(line['input'])})"
        for line in error.errors()
    )


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
