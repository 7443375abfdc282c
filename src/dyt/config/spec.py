"""The specs that a model is assembled from: plain, frozen, validated data that survives JSON and YAML unchanged."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, JsonValue, Tag, ValidationError, field_validator, model_validator

from dyt.config.base import ComponentSpec, Slot, Spec
from dyt.config.explained import explain
from dyt.config.plain import MOST_VALUES, check_numbers, check_plain
from dyt.config.scalars import LARGEST_NUMBER
from dyt.errors import SpecError
from dyt.registry import KINDS

S = TypeVar("S", bound=Spec)
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
NOT_TAUGHT = (
    "it is held to the backbone before it was tuned, which is not kept with a tuner, modules_to_save or trainable: "
    "full; leave that out"
)
NO_PRETRAINED = (
    "objective.teacher: 'pretrained' needs a frozen backbone, without a tuner, modules_to_save or trainable: full; "
    "leave that out or use 'complete'"
)


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


_GOLDEN = (math.sqrt(5) - 1) / 2


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


class BackboneSpec(Spec):
    """The timm model that is adapted."""

    name: str = "vit_base_patch16_224.augreg_in21k"
    """A model name as `timm.create_model` takes it; the default is the paper's ViT-B/16 (ImageNet-21k). For a model
    built on a given backbone (`backbone=`): that model's timm name, or the name of its class."""
    weights: str = "pretrained"
    """Where the backbone's weights are from. `pretrained`: timm's weights for that name, from the Hugging Face hub;
    `none`: random; or the path of a local file (`.safetensors`, or a `.pth` that holds tensors only). `given` marks a
    model that was built with `backbone=`, and is not for users to set."""
    args: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of `timm.create_model`, as plain values: `{img_size: 384, drop_path_rate: 0.1}`; a list is
    passed as a tuple. Not those that say where weights are from or kept (`pretrained_cfg`, `cache_dir`)."""
    window_size: Annotated[int, Field(ge=1)] | None = None
    """Attention of a plain ViT within windows of at most this many patches per side, as equal as the grid allows, for
    large images (ViTDet, arXiv:2203.16527); null for global attention."""
    global_attn_indexes: tuple[int, ...] | None = None
    """With `window_size`: the blocks, counted from 0, whose attention stays global. Null takes the last of each quarter
    of the depth (2, 5, 8 and 11 of 12)."""

    @model_validator(mode="after")
    def _used(self) -> BackboneSpec:
        if self.global_attn_indexes is not None and self.window_size is None:
            raise ValueError("global_attn_indexes names the blocks without windows; set window_size, or leave it out")
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
        for name in args:
            if name == "cache_dir" or name.startswith("pretrained_cfg"):
                raise ValueError(f"'{name}' is not an argument here: where weights are from is set by backbone.weights")
        check_numbers(args)
        return args


class HeadSpec(ComponentSpec):
    """Base of the specs of all heads."""

    type: str = "classifier"
    """The name under which the head is registered: `classifier` is the backbone's own; the others belong to a task."""
    num_classes: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    """Number of classes. 0, for `classifier` only, is a model without a classifier, which gives features and cannot be
    trained. In a run it is taken from the data unless it is given."""

    @property
    def classifier(self) -> int:
        """Outputs of the backbone's own classifier; 0 where another head takes its place."""
        return self.num_classes


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
    serves at any of them. `asked` lets the lowest fall. `control: threshold` sets the rates; at the end of a run the
    thresholds are those of `rate`, which lies between. Null for the same target at every step."""
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
            if not low <= self.rate <= high:
                raise ValueError(f"spread is [lowest, highest] with rate between; rate is {self.rate:g}")
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
        low, high = self.asked_of(self.spread[0], progress), self.spread[1]
        return low + max(high - low, 0.0) * math.fmod((step + 1) * _GOLDEN, 1.0)

    def asked_of(self, rate: float, progress: float) -> float:
        """The target at `progress` in [0, 1] of the training, of a rate that is to be `rate` at its end."""
        return rate if self.asked is None else self.asked.towards(rate).at(progress)


class CapacitySpec(Spec):
    """How many tokens of a site the executor `capacity` computes; `dyt.calibrate_capacity` sets it from images."""

    share: Rate | tuple[Rate, ...] = 1.0
    """Share of a site's tokens, prefix tokens included: one number for all sites, or one for each site in order."""
    overflow: Literal["dense", "nan"] = "dense"
    """What happens in a forward in which more tokens are active. `dense`: the branch is computed for all tokens, with
    the same numbers; `nan`: all outputs of the images concerned are NaN, and the host never waits for the device."""


class DyTSpec(Spec):
    """A dynamic vision transformer: backbone, head, what is dispatched and by which dispatcher, adapter, and loss.

    The defaults are the paper's.
    """

    backbone: BackboneSpec = BackboneSpec()
    """The timm model that is adapted."""
    head: Annotated[HeadSpec, Slot("heads", default="classifier")] = Field(
        default={"type": "classifier"}, validate_default=True
    )
    """What reads the backbone's features and gives the model's outputs."""
    variant: Annotated[ComponentSpec, Slot("variants", default="mlp")] = Field(
        default={"type": "mlp"}, validate_default=True
    )
    """Which branches of a block are dispatched (paper, figure 3)."""
    dispatcher: Annotated[ComponentSpec, Slot("dispatchers", default="learned")] = Field(
        default={"type": "learned"}, validate_default=True
    )
    """What decides which tokens are active (paper, section 3.3)."""
    adapter: Annotated[ComponentSpec, Slot("adapters", default="bottleneck")] = Field(
        default={"type": "bottleneck"}, validate_default=True
    )
    """What is added at every token, active or not (paper, eq. 1)."""
    stand_in: Annotated[ComponentSpec, Slot("adapters")] | None = None
    """What takes the place of the branch at inactive tokens, (1 - M) * StandIn(X): an adapter of its own, so that what
    a token adds depends less on whether others are skipped. Null for nothing, as in the paper."""
    tuner: Annotated[ComponentSpec, Slot("tuners")] | None = None
    """How the backbone itself is tuned: LoRA, prompts or biases, the paper's baselines. Null for not at all."""
    objective: ObjectiveSpec = ObjectiveSpec()
    """The fine-tuning loss."""
    trainable: Literal["adapters", "full"] = "adapters"
    """What is trained. `adapters`: adapters, dispatchers, the head and what the tuner adds, with the backbone frozen;
    `full`: everything (dynamic_full in the paper's table 6)."""
    modules_to_save: tuple[str, ...] = ()
    """Further modules or parameters of the backbone that are trained and stored, by their timm names, as in peft:
    `[norm, blocks.11]`."""
    reducer: Annotated[ComponentSpec, Slot("reducers")] | None = None
    """What lowers the number of tokens from block to block (ToMe, EViT, DynamicViT), with dispatching or in its place.
    Null for nothing."""
    capacity: CapacitySpec | None = None
    """How many tokens the executor `capacity` computes; other executors ignore it. Null for all tokens."""

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
        """Takes a single name for a list of one, and null for an empty list."""
        return () if names is None else (names,) if isinstance(names, str) else names

    @model_validator(mode="after")
    def _consistent(self) -> DyTSpec:
        if self.objective.teacher == "pretrained" and not self.keeps_pretrained:
            raise ValueError(NO_PRETRAINED)
        if KINDS["heads"].get(self.head.type).taught and not self.keeps_pretrained:
            raise ValueError(f"head '{self.head.type}': {NOT_TAUGHT}")
        return self

    @model_validator(mode="after")
    def _stands_in_place(self) -> DyTSpec:
        if getattr(self.stand_in, "placement", "parallel") != "parallel":
            raise ValueError("stand_in reads what its branch reads; its placement is parallel, so leave that out")
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
        """Whether `head.num_classes` was given, and not left at its default."""
        return "head" in self.model_fields_set and "num_classes" in self.head.model_fields_set

    def with_classes(self, count: int) -> DyTSpec:
        """This spec with another number of classes."""
        return self.model_copy(update={"head": self.head.model_copy(update={"num_classes": count})})


def parse(cls: type[S], data: Any, most: int = MOST_VALUES) -> S:
    """`cls.model_validate(data)`, with an error of one line for bad data, or for more than so many values.

    Raises:
        SpecError: naming the wrong fields, what was given and what is allowed.
    """
    check_plain(data, most)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise SpecError(explain(error)) from error
