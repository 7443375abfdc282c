"""The part `train`: training steps over that of a static adapter, in time and in memory."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import count
from typing import Any

import timm
import torch
from torch import Tensor

import dyt
from dyt.measure import paired
from dyt.objective.teacher import teacher_rows
from dyt.train import recipe
from gpu_parts.setting import BACKBONES, SMALL, Point, Setting, require, rounds

STATIC = "static adapter"
CLASSES = 100
MARGIN = 0.1
"""By how much the capacity of a step is above the need of its images, which are always the same."""


def train_points(setting: Setting) -> Iterator[Point]:
    """Training steps, those of today's recipes first."""
    groups = {"teacher kept": _recipes, "executors": _executors, "teacher in each step": _before}
    if not setting.cuda:
        for name, contenders in groups.items():
            yield Point(name, partial(_train, setting, "vit_tiny_patch16_224", 2, contenders), 10)
        return
    for name, contenders in groups.items():
        for size in ("B", "S"):
            yield Point(f"{size}, batch 64, {name}", partial(_train, setting, size, 64, contenders), 10)


@dataclass(frozen=True)
class _Contender:
    """A way of training.

    Attributes:
        model: its spec, without backbone and head.
        kept: whether the teacher's features were computed before.
        executors: with which the dynamic pass is run, by what is added to the name; None for the step's own, as in
            `dyt train`.
    """

    model: Mapping[str, Any]
    kept: bool = False
    executors: Mapping[str, str | None] | None = None


def _preset(name: str) -> _Contender:
    return _Contender(dyt.preset(name).model_dump(mode="json"))


def _told(gradient: str, executors: Mapping[str, str | None] | None = None) -> _Contender:
    """The default recipe with this `router_gradient`, the teacher's features kept."""
    model = recipe("default")["model"]
    objective = {**model["objective"], "router_gradient": gradient}
    return _Contender({**model, "objective": objective}, True, executors)


def _recipes() -> dict[str, _Contender]:
    """What a user of a recipe gets where images are not augmented."""
    return {
        "default recipe": _told("all"),
        "router_gradient none": _told("none"),
        "recipe budgets": _Contender(recipe("budgets")["model"], True),
    }


def _executors() -> dict[str, _Contender]:
    """The same steps by other executors. Only with `none` does `capacity` have the gradients of `masked`."""
    own = {", sparse_backward": None, ", masked": "masked"}
    return {
        "router_gradient none": _told("none", {**own, ", capacity": "capacity"}),
        "router_gradient all": _told("all", own),
    }


def _before() -> dict[str, _Contender]:
    """The paper's step of two passes, and the default recipe's with a teacher's pass of its own."""
    return {"paper": _preset("dyt_vtab"), "default recipe": _Contender(recipe("default")["model"])}


def _train(
    setting: Setting, size: str, batch: int, contenders: Callable[[], Mapping[str, _Contender]]
) -> dict[str, Any]:
    backbone = BACKBONES.get(size, size)
    pixels = SMALL["img_size"] if setting.small else 224
    torch.manual_seed(0)
    images = torch.randn(batch, 3, pixels, pixels, device=setting.device)
    labels = torch.arange(batch, device=setting.device) % CLASSES
    calls: dict[str, Callable[[], Tensor]] = {}
    memory: dict[str, float] = {}
    for name, contender in {STATIC: _preset("static_adapter_vtab"), **contenders()}.items():
        model = _model(setting, backbone, contender)
        for more, call in _steps(setting, model, contender, images, labels):
            calls[name + more] = call
            memory[name + more] = _peak(call, model, setting)
    found = paired(calls, *rounds(setting))
    return {
        name: {
            "ms": found.best(name) * 1e3,
            "of static": asdict(found.speedup(STATIC, over=name)),
            "MiB": memory[name],
            "MiB of static": memory[name] / memory[STATIC],
        }
        for name in calls
    }


@lru_cache(maxsize=1)
def _plain(backbone: str, small: bool) -> Any:
    """A random backbone, made once for all contenders."""
    return timm.create_model(backbone, num_classes=CLASSES, **(SMALL if small else {}))


def _model(setting: Setting, backbone: str, contender: _Contender) -> dyt.DynamicModel:
    named = {"name": backbone, "weights": "none", "args": dict(SMALL) if setting.small else {}}
    spec = {**contender.model, "backbone": named, "head": {"num_classes": CLASSES}}
    return dyt.build(spec, backbone=copy.deepcopy(_plain(backbone, setting.small))).to(setting.device).train()


def _steps(
    setting: Setting, model: dyt.DynamicModel, contender: _Contender, images: Tensor, labels: Tensor
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The contender's step by each of its executors; each gives its loss."""
    rows = _rows(setting, model, images) if contender.kept else None
    run = partial(_stepped, dyt.TuningStep(model), images, labels, rows, setting, count())
    for more, executor in (contender.executors or {"": None}).items():
        call = partial(run, nullcontext if executor is None else partial(dyt.execution, model, executor))
        if executor == "capacity":
            run(nullcontext)  # the thresholds are at the rate from the second step on
            with _autocast(setting):
                dyt.calibrate_capacity(model, [images], margin=MARGIN, together=len(images), overflow="nan")
        require(bool(call().isfinite()), f"{executor}: the loss is not finite; with 'capacity', tokens had no room")
        yield more, call


def _rows(setting: Setting, model: dyt.DynamicModel, images: Tensor) -> Sequence[Tensor]:
    model.eval()
    with _autocast(setting):
        rows = teacher_rows(model, images)
    model.train()
    return rows


def _autocast(setting: Setting) -> AbstractContextManager[Any]:
    return torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.cuda)


def _stepped(
    step: dyt.TuningStep,
    images: Tensor,
    labels: Tensor,
    rows: Sequence[Tensor] | None,
    setting: Setting,
    numbers: Iterator[int],
    execution: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """Forward and backward at the end of the training. Steps have consecutive numbers, by which `spread` sets rates."""
    step.zero_grad(set_to_none=True)
    with execution(), _autocast(setting):
        loss, _ = step(images, labels, 1.0, next(numbers), rows)
    loss.backward()
    if setting.cuda:
        torch.cuda.synchronize(setting.device)
    return loss.detach()


def _peak(call: Callable[[], Tensor], model: dyt.DynamicModel, setting: Setting, steps: int = 3) -> float:
    """MiB that the model and its step take at their most; on a CPU the model alone. Others may be there as well."""
    call()
    own = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    if setting.cuda:
        gc.collect()
        before = torch.cuda.memory_allocated(setting.device)
        torch.cuda.reset_peak_memory_stats(setting.device)
        for _ in range(steps):
            call()
        own += torch.cuda.max_memory_allocated(setting.device) - before
    return own / 2**20
