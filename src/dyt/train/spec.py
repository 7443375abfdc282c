"""TrainSpec: how it is trained. RunSpec: model, data and training, the whole of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from timm.optim import list_optimizers  # type: ignore[attr-defined]

from dyt.config.base import Spec
from dyt.config.spec import BackboneSpec, DyTSpec
from dyt.errors import SpecError, nearest
from dyt.registry import KINDS
from dyt.tasks.kinds import AnyDataSpec

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


class TrainSpec(Spec):
    """The optimisation of a run.

    `batch_size`: images of one optimiser step, over all processes and accumulated parts together, so that a run means
    the same on any number of them; an incomplete last batch of an epoch is dropped. `accumulate`: parts that a step
    is split into, for memory; the loss stays that of the whole step, at the price of one more forward a part where the
    rate or features are in the loss (`TuningStep.accumulating`). `optimizer`: a name of timm's. `lr_rule`: `none`, or
    `batch256`, which multiplies lr by batch_size / 256 (the paper's full-data rule). `decay_all`: decay biases and
    other one-dimensional tensors as well, as the released code does; False leaves them out, as timm does.
    `adapter_lr_scale`: factor on the learning rate of adapters and of what a tuner trains. `router_lr_scale`,
    `router_weight_decay`: of the dispatchers. `schedule`: linear warm-up from 0 over `warmup_epochs`, then cosine to
    `min_lr`, updated every step. `clip`: largest norm of the gradient. `precision`: autocast of the forward.
    `grad_checkpointing`: recompute frozen branches in the backward. `eval_every`: epochs between evaluations on the
    test split; 0 evaluates at the end only. `checkpoint_every`: steps between resume checkpoints; None writes one per
    epoch. `router_start`: `random`, the paper's truncated normal; or `importance`, before the first step fit the
    routers on training images to what each token's branch is worth to the pretrained features, at the rate asked for at
    the start. `calibrate`: at the end set the sites' thresholds so that the rate over training images, as at inference,
    is the asked one.
    """

    epochs: Count = 100
    batch_size: Count = 64
    optimizer: str = "adamw"
    lr: Positive = 1e-3
    lr_rule: Literal["none", "batch256"] = "none"
    weight_decay: NotNegative = 0.01
    decay_all: bool = True
    adapter_lr_scale: Positive = 1.0
    router_lr_scale: Positive = 1.0
    router_weight_decay: NotNegative | None = None
    router_start: Literal["random", "importance"] = "random"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0
    min_lr: NotNegative = 0.0
    clip: Positive | None = None
    accumulate: Count = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    grad_checkpointing: bool = False
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    eval_every: Annotated[int, Field(ge=0)] = 0
    checkpoint_every: Count | None = None
    calibrate: bool = False

    @field_validator("optimizer")
    @classmethod
    def _known(cls, name: str) -> str:
        known = [str(known) for known in list_optimizers()]
        if name not in known:
            raise ValueError(f"timm has no optimizer '{name}'; {nearest(name, known)}")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> TrainSpec:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs}); lower it, 0 for none"
            )
        if (self.mixup or self.cutmix) and self.batch_size % (2 * self.accumulate):
            raise ValueError("mixup and cutmix pair images: batch_size / accumulate must be even")
        return self

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up."""
        return self.lr * self.batch_size / 256 if self.lr_rule == "batch256" else self.lr


class RunSpec(Spec):
    """A whole run: `model`, `data`, `train`. What `dyt train` reads and writes as run.yaml."""

    model: DyTSpec = DyTSpec()
    data: AnyDataSpec
    train: TrainSpec = TrainSpec()

    @model_validator(mode="after")
    def _one_task(self) -> RunSpec:
        task = KINDS["heads"].get(self.model.head.type).task
        if task != self.data.task:
            fitting = [name for name, head in KINDS["heads"].items() if head.task == self.data.task]
            raise ValueError(
                f"data.task is '{self.data.task}', but head '{self.model.head.type}' is for {task}; "
                f"heads for {self.data.task}: {', '.join(fitting) or 'none'}"
            )
        if task != "classification" and (self.train.mixup or self.train.cutmix):
            raise ValueError(f"train.mixup and train.cutmix mix labelled images; set both to 0 for {task}")
        if self.train.label_smoothing and not KINDS["heads"].get(self.model.head.type).soft_labels:
            raise ValueError(f"head '{self.model.head.type}' takes no smoothed labels; set train.label_smoothing to 0")
        return self

    @model_validator(mode="after")
    def _one_loss(self) -> RunSpec:
        loss, labels = getattr(self.model.head, "loss", "its own"), getattr(self.data, "labels", "one")
        if loss == "mse":
            raise ValueError("model.head.loss is mse, and this data has classes; train numbers with dyt.TuningStep")
        if labels == "several" and loss == "cross_entropy":
            raise ValueError(f"data.labels is several, but model.head.loss is {loss}; set it to bce")
        if labels == "several" and (self.train.mixup or self.train.cutmix or self.train.label_smoothing):
            raise ValueError("train.mixup, cutmix and label_smoothing are of one label an image; set them to 0")
        return self

    def with_backbone(self, backbone: BackboneSpec) -> RunSpec:
        """The run with another backbone."""
        return self.model_copy(update={"model": self.model.model_copy(update={"backbone": backbone})})

    def with_classes(self, count: int) -> RunSpec:
        """The run for data of so many classes.

        Raises:
            SpecError: `model.head.num_classes` was given, and is another number.
        """
        given = self.model.head.num_classes
        if self.model.says_classes and given != count:
            raise SpecError(f"model.head.num_classes is {given}, but the data has {count} classes; leave it out")
        return self.model_copy(update={"model": self.model.with_classes(count)})
