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
    """The optimisation of a run."""

    epochs: Count = 100
    """Number of passes over the training images; 100 in the paper."""
    batch_size: Count = 64
    """Images of one optimiser step, over all processes and accumulated parts together, so that a run means the same on
    any number of processes. An incomplete last batch of an epoch is dropped."""
    optimizer: str = "adamw"
    """Name of a timm optimiser."""
    lr: Positive = 1e-3
    """Learning rate after the warm-up, before `lr_rule` and the scales below."""
    lr_rule: Literal["none", "batch256"] = "none"
    """`none`: the learning rate is `lr`; `batch256`: it is `lr * batch_size / 256`, the paper's rule on full data
    sets."""
    weight_decay: NotNegative = 0.01
    """Weight decay of everything that is trained, but for what `decay_all` and `router_weight_decay` say."""
    decay_all: bool = True
    """Whether biases and other one-dimensional tensors decay as well, as in the released code; `false` leaves them out,
    as timm does."""
    adapter_lr_scale: Positive = 1.0
    """Factor on the learning rate of adapters and of what a tuner trains."""
    stand_in_lr_scale: Positive = 1.0
    """Factor on the learning rate of stand-ins."""
    router_lr_scale: Positive = 1.0
    """Factor on the learning rate of dispatchers."""
    router_weight_decay: NotNegative | None = None
    """Weight decay of dispatchers. Null takes `weight_decay`."""
    router_start: Literal["random", "importance", "residual"] = "random"
    """How routers start. `random`: truncated normal, as in the paper; `importance`: fitted to training images before
    the first step, to what each token's branch is worth to the pretrained features, at the first target rate;
    `residual`: the same of what the branch gives beyond its stand-in, which is fitted first."""
    stand_in_start: Literal["zero", "fitted"] = "zero"
    """How stand-ins start. `zero`: they add nothing; `fitted`: as the linear map of their rank that is nearest to what
    the branch gives of a token in the pretrained model, on the images that start the routers; of `low_rank` alone."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after a linear warm-up from 0, updated every step: `cosine` down to `min_lr`, or `constant`."""
    warmup_epochs: NotNegative = 0
    """Length of the warm-up in epochs, below `epochs`; 0 for none."""
    min_lr: NotNegative = 0.0
    """Learning rate at the end of the cosine."""
    clip: Positive | None = None
    """Largest norm of the gradient over all parameters; a larger one is scaled down. Null for no limit."""
    accumulate: Count = 1
    """Number of parts into which a step is split, to save memory. The loss is still that of the whole step, which costs
    one more forward per part where the rate or features are in it."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward: `no` for float32, or autocast to `bf16` or `fp16`."""
    grad_checkpointing: bool = False
    """Whether frozen branches are recomputed in the backward pass, to save memory."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target probability that is spread over all classes."""
    mixup: NotNegative = 0.0
    """Strength alpha of timm's mixup; 0 for none."""
    cutmix: NotNegative = 0.0
    """Strength alpha of timm's cutmix; 0 for none."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything that is drawn: weights, order of images, augmentation, noise."""
    eval_every: Annotated[int, Field(ge=0)] = 0
    """Epochs between evaluations on the test split; 0 evaluates at the end only."""
    checkpoint_every: Count | None = None
    """Optimiser steps between checkpoints from which the run resumes. Null writes one per epoch."""
    keep_teacher: bool | None = None
    """Whether the features of `objective.teacher: pretrained` are computed once, and kept in memory or in a file beside
    the run; `true` is refused where images are augmented or mixed. Null does so for images that are the same in every
    epoch, where the features take at most 8 GiB."""
    timeout: Positive = 1800.0
    """Seconds that a process of several waits for the others in a step, after which the run ends with an error. It
    must be longer than the slowest of them ever takes alone, to read a batch say; torch's own is 1800 with gloo and
    600 with NCCL. The result does not depend on it."""
    calibrate: bool = False
    """Whether the sites' thresholds are set at the end so that the rate over training images, as at inference, is the
    target rate."""
    budgets: bool = False
    """Whether the thresholds of all rates are found at the end, on training images, and kept with the model, so that
    its cost can be chosen afterwards (`model.budget`)."""

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
        if self.router_start == "residual" and self.stand_in_start != "fitted":
            raise ValueError("router_start: residual is of fitted stand-ins; set stand_in_start: fitted, or importance")
        if (self.mixup or self.cutmix) and self.batch_size % (2 * self.accumulate):
            raise ValueError("mixup and cutmix pair images: batch_size / accumulate must be even")
        return self

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up."""
        return self.lr * self.batch_size / 256 if self.lr_rule == "batch256" else self.lr


class RunSpec(Spec):
    """A whole run. `dyt train` reads and writes it as run.yaml."""

    model: DyTSpec = DyTSpec()
    """The model spec."""
    data: AnyDataSpec
    """The data; `task` decides which fields there are."""
    train: TrainSpec = TrainSpec()
    """The optimisation."""

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
