"""What all parts share: where they run, models and images, CUDA graphs, and how a call is timed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import dyt
from dyt.core import context
from dyt.measure import paired

BACKBONES = {"S": "vit_small_patch16_224", "B": "vit_base_patch16_224", "L": "vit_large_patch16_224"}
DENSE = "dense timm"
SMALL: Mapping[str, Any] = {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2}
"""Arguments of a backbone to test this script with."""
TARGET = 5e-3
"""Seconds that one timed call should take at least: a forward is replayed so many times."""
ROUNDS = (11, 3)
"""Timed and untimed rounds of paired turns; fewer in a test of this script."""


@dataclass(frozen=True)
class Setting:
    """Where it runs, and whether at small sizes."""

    device: torch.device
    small: bool

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Point:
    """One line to be measured.

    Attributes:
        name: within its part.
        measure: gives plain data, or raises.
        seconds: about how long it takes.
    """

    name: str
    measure: Callable[[], Any]
    seconds: float


def require(holds: bool, otherwise: str) -> None:
    """Raises an AssertionError that says what does not hold."""
    if not holds:
        raise AssertionError(otherwise)


def built(
    setting: Setting,
    variant: str = "mlp",
    dtype: torch.dtype = torch.float32,
    backbone: str = "vit_tiny_patch16_224",
    batch: int = 6,
    device: torch.device | None = None,
    checked: bool = True,
) -> tuple[dyt.DynamicModel, Tensor]:
    """A model with random weights and routers in eval mode, and random images; always the same ones.

    Args:
        checked: of four layers and five classes, as the checks want it, and with adapters that add something.
    """
    torch.manual_seed(0)
    args: dict[str, Any] = {"depth": 4} if checked else {}
    if setting.small:
        args |= SMALL
    spec = {
        "backbone": {"name": backbone, "weights": "none", "args": args},
        "variant": {"type": variant},
        "head": {"num_classes": 5 if checked else 1000},
    }
    model = dyt.build(spec).eval()
    for site in model.sites:
        for name, parameter in site.named_parameters():
            if "router" in name or "up" in name:
                nn.init.normal_(parameter, std=0.05)
    size = SMALL["img_size"] if setting.small else 224
    images = torch.randn(batch, 3, size, size)
    where = setting.device if device is None else device
    return model.to(where, dtype), images.to(where, dtype)


def replayed(call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A call captured as a CUDA graph: what replays it, and the tensor that each replay writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    return graph.replay, out


def synchronised(call: Callable[[], Any], times: int, device: torch.device) -> Callable[[], None]:
    """The call, so many times, finished when it returns."""

    def run() -> None:
        for _ in range(times):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def duration(call: Callable[[], Any], setting: Setting) -> float:
    """Seconds of one call: the median of paired rounds with itself."""
    once = paired({"": synchronised(call, 1, setting.device)}, 3, 1).best("")
    times = max(1, round(TARGET / once)) if setting.cuda else 1
    return median(paired({"": synchronised(call, times, setting.device)}, 7, 1).seconds[""]) / times


def repeated(call: Callable[[], Any], setting: Setting, times: int = 20) -> float:
    """Seconds of one call of many that the device runs one after another, without the host's part in it."""
    if not setting.cuda:
        return duration(call, setting)

    def many() -> Tensor:
        for _ in range(times):
            call()
        return torch.empty(0, device=setting.device)

    return duration(replayed(many)[0], setting) / times


@contextmanager
def joined(launches: Collection[str] | None) -> Iterator[None]:
    """Inside, these neighbouring kernels of the executor `triton` are launched as one; None leaves it as it is."""
    if launches is None:
        yield
        return
    from dyt.executors.triton import tuning

    usual, tuning.JOINED = tuning.JOINED, frozenset(launches)
    try:
        yield
    finally:
        tuning.JOINED = usual


class Ready(Protocol):
    """How a model's forward is made ready."""

    def __call__(
        self, model: nn.Module, images: Tensor, launches: Sequence[Collection[str] | None] = (None,)
    ) -> list[Callable[[], Any]]:
        """What runs it, for each set of `joined` launches; compiled once for all."""


@contextmanager
def run_as(setting: Setting, mode: str) -> Iterator[Ready]:
    """How forwards are run: `eager`; `graph`, each kernel as in eager mode but captured; `compiled` and captured."""

    def ready(
        model: nn.Module, images: Tensor, launches: Sequence[Collection[str] | None] = (None,)
    ) -> list[Callable[[], Any]]:
        call = partial(torch.compile(_traceable(model), fullgraph=True) if mode == "compiled" else model, images)
        if mode == "eager":
            return [call for _ in launches]
        made = []
        for each in launches:
            with joined(each):
                made.append(replayed(call)[0])
        return made

    try:
        yield ready
    finally:
        torch.compiler.reset()


def _traceable(model: nn.Module) -> nn.Module:
    """For torch.compile: no context will be entered around the forwards, and an older torch cannot ask for one."""
    if isinstance(model, dyt.DynamicModel):
        model.key.traced = context.ForwardContext()
    return model


def rounds(setting: Setting) -> tuple[int, int]:
    """Timed and untimed rounds."""
    return ROUNDS if setting.cuda else (2, 1)
