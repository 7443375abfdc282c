"""The dynamic model against the dense timm model, in paired turns."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from dyt.backbone import create
from dyt.errors import DyTError
from dyt.measure.activity import random_masks, routes_of, token_counts
from dyt.measure.costs import dense_macs, without_weights
from dyt.measure.latency import Comparison, Interval, paired
from dyt.measure.macs import count_macs
from dyt.model import DynamicModel, forced
from dyt.route import activation_rate

DENSE, DYNAMIC = "dense timm", "dynamic"
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Bench:
    """What `against_dense` measured, and under which conditions.

    Attributes:
        backbone: timm's name.
        masks: whose routes were run, in words.
        active_rate: share of active patch tokens.
        batch, size: of the input.
        macs_dense, macs_executed: multiply-accumulates per image, mean of the batch.
        comparison: every timed call.
        conditions: device, threads, dtype, versions.
    """

    backbone: str
    masks: str
    active_rate: float
    batch: int
    size: tuple[int, int]
    macs_dense: float
    macs_executed: float
    comparison: Comparison
    conditions: dict[str, str | int]

    @property
    def speedup(self) -> Interval:
        """The dynamic model over the dense one: median of the paired ratios, and its interval."""
        return self.comparison.speedup(DYNAMIC, over=DENSE)

    def images_per_second(self, which: str) -> float:
        """Of the fastest call."""
        return self.batch / self.comparison.best(which)

    def data(self) -> dict[str, Any]:
        """Everything as plain data, the speed-up included."""
        return asdict(self) | {"speedup": asdict(self.speedup)}


def against_dense(
    model: DynamicModel,
    images: Tensor,
    rate: float | None = 0.5,
    dtype: Precision = "float32",
    pairs: int = 11,
    warmup: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> Bench:
    """Times a dynamic model (executor `sparse`) against the plain timm model of its spec, at inference.

    The dense model has random weights, which its speed does not depend on. With `rate` None the dynamic model's own
    dispatchers decide; forced masks skip them, a thousandth of the work.

    Args:
        model: the dynamic model; not changed.
        images: (B, 3, H, W), on the device to measure on.
        rate: share of patch tokens active under random forced masks; None for the model's own routes.
        dtype: of weights and images.
        pairs, warmup: as for `paired`.
        progress: as for `paired`.

    Raises:
        DyTError: no images, or a rate outside [0, 1].
    """
    if not len(images):
        raise DyTError("bench: a batch of at least one image is needed")
    images = images.to(getattr(torch, dtype))
    model = copy.deepcopy(model).to(images).eval()
    spec = without_weights(model.spec)
    dense = create(spec.backbone, spec.head.num_classes)[0].to(images).eval()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if rate is not None:
            masks = random_masks(token_counts(model, images[:1]), len(images), rate)
            stack.enter_context(forced(model, [mask.to(images.device) for mask in masks]))
        active, total = activation_rate(routes_of(model, images))
        executed = count_macs(model, images).double().mean()
        comparison = paired(
            {DENSE: _finished(dense, images), DYNAMIC: _finished(model, images)}, pairs, warmup, progress=progress
        )
    return Bench(
        backbone=model.spec.backbone.name,
        masks="its own routes" if rate is None else "forced masks, random weights",
        active_rate=float(active / total),
        batch=len(images),
        size=(images.shape[2], images.shape[3]),
        macs_dense=float(dense_macs(dense, images[:1])),
        macs_executed=float(executed),
        comparison=comparison,
        conditions=conditions(images, dtype),
    )


def conditions(images: Tensor, dtype: str) -> dict[str, str | int]:
    """What a speed depends on beside the model."""
    device = images.device
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"{device.type} ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def _finished(model: nn.Module, images: Tensor) -> Callable[[], None]:
    def run() -> None:
        model(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)

    return run
