"""The specs that a model is assembled from: plain, frozen, validated data that survives JSON and YAML unchanged."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from dyt.config.base import ComponentSpec, Slot, Spec
from dyt.config.explained import explain
from dyt.config.objective import ObjectiveSpec
from dyt.config.plain import MOST_VALUES, check_numbers, check_plain
from dyt.config.schedules import Rate
from dyt.errors import SpecError
from dyt.registry import KINDS

S = TypeVar("S", bound=Spec)
NOT_TAUGHT = (
    "it is held to the backbone before it was tuned, which is not kept with a tuner, modules_to_save or trainable: "
    "full; leave that out"
)
NO_PRETRAINED = (
    "objective.teacher: 'pretrained' needs a frozen backbone, without a tuner, modules_to_save or trainable: full; "
    "leave that out or use 'complete'"
)


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
