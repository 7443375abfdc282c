"""The dynamic model beside dense timm and the peers, in paired turns, with what each computes beside its time."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from dyt.core import context
from dyt.core.route import activation_rate
from dyt.deprecated import renamed
from dyt.errors import DyTError, UnsupportedError
from dyt.measure.activity import random_masks, routes_of, token_counts
from dyt.measure.contenders import DENSE, PEERS, Contender, Dense, Rewrite, contenders
from dyt.measure.costs import dense_macs
from dyt.measure.latency import Comparison, Interval, paired
from dyt.measure.macs import count_macs
from dyt.model.dynamic import DynamicModel, dynamic_of, execution

__getattr__ = renamed(__name__, {"Row": "BenchRow"})
Precision = Literal["float32", "bfloat16"]
Timer = Callable[..., Comparison]


@dataclass(frozen=True)
class BenchRow:
    """One contender.

    Attributes:
        name: of the contender.
        seconds: of a call, the median.
        best: of the fastest call.
        speedup: over dense timm, of the paired ratios.
        macs: multiply-accumulates per image, mean of the batch.
        active_rate: share of active patch tokens; None where nothing is dispatched.
        difference: largest difference of its logits from the DyT model's under `masked`, over the largest of those;
            None for another model.
    """

    name: str
    seconds: float
    best: float
    speedup: Interval
    macs: float
    active_rate: float | None
    difference: float | None


@dataclass(frozen=True)
class Bench:
    """What `compare` measured, and under which conditions.

    Attributes:
        backbone: timm's name.
        masks: whose routes were run, in words.
        batch, size: of the input.
        dtype, compiled: of every contender.
        rows: the contenders, dense timm first.
        left: those that are left out, with the reason.
        conditions: device, threads, load, versions.
    """

    backbone: str
    masks: str
    batch: int
    size: tuple[int, int]
    dtype: str
    compiled: bool
    rows: tuple[BenchRow, ...]
    left: Mapping[str, str]
    conditions: Mapping[str, str | int | float]

    @property
    def title(self) -> str:
        """The point of the sweep that this is."""
        way = "compiled" if self.compiled else "eager"
        return f"{self.backbone}, batch {self.batch}, {self.dtype}, {way}"

    def row(self, name: str) -> BenchRow:
        """The contender of that name."""
        return next(row for row in self.rows if row.name == name)

    def data(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)

    @staticmethod
    def of(data: Mapping[str, Any]) -> Bench:
        """From what `data` gave."""
        rows = tuple(BenchRow(**{**row, "speedup": Interval(**row["speedup"])}) for row in data["rows"])
        return Bench(**{**data, "rows": rows, "size": tuple(data["size"])})


def compare(
    model: nn.Module,
    images: Tensor,
    rate: float | None = 0.5,
    dtype: Precision = "float32",
    compiled: bool = False,
    pairs: int = 11,
    warmup: int = 2,
    executor_names: Sequence[str] = ("sparse",),
    peers: Mapping[str, str] = PEERS,
    rewrites: Mapping[str, Rewrite] | None = None,
    progress: Callable[[int], None] = lambda done: None,
    timer: Timer = paired,
) -> Bench:
    """Times a dynamic model and its peers against the plain timm model, at inference, all in turns in one run.

    Peers and dense model have random weights, which their speed does not depend on. With `rate` None the dynamic
    model's own dispatchers decide; forced masks skip them, a thousandth of the work.

    Args:
        model: the dynamic model, or what wraps it; not changed.
        images: (B, 3, H, W), or what else the head takes, on the device to measure on.
        rate: share of patch tokens active under random forced masks; None for the model's own routes.
        dtype: of weights and images.
        compiled: whether every contender, dense timm included, runs under `torch.compile(fullgraph=True)`.
        pairs: as for `paired`.
        warmup: as for `paired`.
        executor_names: as for `contenders`.
        peers: as for `contenders`.
        rewrites: as for `contenders`.
        progress: as for `paired`.
        timer: `paired`, or what stands for it.

    Raises:
        DyTError: no images, a rate outside [0, 1], or an unknown executor.
        UnsupportedError: a head whose outputs are not one tensor.
    """
    if not len(images):
        raise DyTError("bench: a batch of at least one image is needed")
    images = images.to(getattr(torch, dtype))
    before, model = os.getloadavg()[0], copy.deepcopy(dynamic_of(model)).to(images).eval()
    found, left = contenders(model, executor_names, peers, rewrites)
    prepared: dict[str, _Prepared] = {}
    with torch.inference_mode():
        with context.changed(model.key, masks=_masks(model, images, rate)), execution(model, "masked"):
            expected = model(images)
        if not isinstance(expected, Tensor):
            raise UnsupportedError(
                f"bench compares logits; head '{model.spec.head.type}' gives something else, after work that depends "
                f"on what it finds. Time the backbone alone: head: classifier"
            )
        for contender in found:
            try:
                prepared[contender.name] = _Prepared(contender, images, rate, compiled, expected)
            except torch._dynamo.exc.TorchDynamoException as reason:
                left[contender.name] = f"torch.compile: {str(reason).strip().splitlines()[0]}"
        if DENSE not in prepared:
            raise DyTError(f"bench: dense timm does not run: {left[DENSE]}")
        times = timer({name: one.run for name, one in prepared.items()}, pairs, warmup, progress=progress)
    return Bench(
        backbone=model.spec.backbone.name,
        masks="routers of a trained model on images" if rate is None else f"forced random masks of rate {rate:g}",
        batch=len(images),
        size=(images.shape[-2], images.shape[-1]),
        dtype=dtype,
        compiled=compiled,
        rows=tuple(one.row(times) for one in prepared.values()),
        left=left,
        conditions=conditions(images) | {"load": before},
    )


class _Prepared:
    """A contender on its device, its masks made, its work counted, and called once."""

    def __init__(
        self, contender: Contender, images: Tensor, rate: float | None, compiled: bool, expected: Tensor
    ) -> None:
        self.contender, self.name, self.images = contender, contender.name, images
        self.model = model = contender.model.to(images)
        self.active_rate = self.difference = self.masks = None
        if not isinstance(model, DynamicModel):
            assert isinstance(model, Dense)
            self.macs = float(dense_macs(model.backbone, images[:1], model.head))
        else:
            self.masks = _masks(model, images, rate) if contender.routed else None
            with self._context():
                self.macs = float(count_macs(model, images).double().mean())
                if contender.routed:
                    active, total = activation_rate(routes_of(model, images))
                    self.active_rate = float(active / total)
        self.call: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True) if compiled else model
        out = self.run()
        if contender.reference:
            apart = (out.float() - expected.float()).abs().max()
            self.difference = float(apart / expected.float().abs().max().clamp_min(1e-30))

    def _context(self) -> AbstractContextManager[Any]:
        if not isinstance(self.model, DynamicModel):
            return nullcontext()
        return context.changed(self.model.key, masks=self.masks, executor=self.contender.executor)

    def run(self) -> Tensor:
        """One call, finished when it returns."""
        with self._context():
            out = self.call(self.images)
        if self.images.device.type == "cuda":
            torch.cuda.synchronize(self.images.device)
        return out

    def row(self, times: Comparison) -> BenchRow:
        """Its line of the table."""
        return BenchRow(
            name=self.name,
            seconds=median(times.seconds[self.name]),
            best=times.best(self.name),
            speedup=times.speedup(self.name, over=DENSE),
            macs=self.macs,
            active_rate=self.active_rate,
            difference=self.difference,
        )


def _masks(model: DynamicModel, images: Tensor, rate: float | None) -> tuple[Tensor, ...] | None:
    if rate is None:
        return None
    made = random_masks(token_counts(model, images[:1]), len(model.head.frames(images)), rate)
    return tuple(mask.to(images.device) for mask in made)


def conditions(images: Tensor) -> dict[str, str | int | float]:
    """What a speed depends on beside the model."""
    device = images.device
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"{device.type} ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
