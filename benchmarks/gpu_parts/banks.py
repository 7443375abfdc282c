"""The part `bank`: a batch of mixed tasks through a bank, over swapping by image and over a model for each task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from statistics import median
from typing import Any

import timm
import torch
from torch import Tensor, nn

import dyt
from dyt.core import context
from dyt.measure import paired
from dyt.model.tensors import put, stored
from gpu_parts.setting import BACKBONES, SMALL, Point, Setting, require, rounds, synchronised

BANK, COMPILED = "bank, one batch", "bank, compiled"
SEPARATE, SWAPPED = "a model for each task", "one model, swapped"
CLASSES = 100
STAND_IN = {"type": "low_rank", "dim": 8}


@dataclass(frozen=True)
class Tasks:
    """The same tasks as a bank and as models of their own, and a batch with images of all of them in turns."""

    bank: dyt.Bank
    models: Mapping[str, dyt.DynamicModel]
    images: Tensor
    names: Sequence[str]

    def separate(self) -> list[Tensor]:
        """Each image through its task's own model."""
        return [self.models[name](image[None])[0] for image, name in zip(self.images, self.names, strict=True)]

    def swapped(self) -> Callable[[], list[Tensor]]:
        """Each image through one model, into which its task's tensors are copied first."""
        model = copy.deepcopy(self.models[self.names[0]])
        states = {name: {k: t.detach().clone() for k, t in stored(own).items()} for name, own in self.models.items()}

        def run() -> list[Tensor]:
            out = []
            for image, name in zip(self.images, self.names, strict=True):
                put(model, states[name])
                out.append(model(image[None])[0])
            return out

        return run

    def compiled(self, backend: str = "inductor") -> Callable[[], Tensor]:
        """The bank, compiled, given indices."""
        assert self.bank.model is not None
        self.bank.model.key.traced = context.ForwardContext()  # an older torch cannot ask for one
        return partial(
            torch.compile(self.bank, fullgraph=True, backend=backend), self.images, self.bank.indices(self.names)
        )


def tasks(
    backbone: str,
    count: int,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    args: Mapping[str, Any] = {},
    stand_in: Mapping[str, Any] | None = None,
) -> Tasks:
    """So many tasks with random weights, adapters of d = 8 and classifiers of 100 classes, and random images."""
    torch.manual_seed(0)
    plain = timm.create_model(backbone, num_classes=0, **args).eval()
    models = {f"task{i}": _tuned(plain, backbone, args, stand_in).to(device, dtype) for i in range(count)}
    bank = dyt.Bank(plain.to(device, dtype))
    for name, model in models.items():
        bank.add(name, model)
    size = args.get("img_size", 224)
    images = torch.randn(batch, 3, size, size).to(device, dtype)
    return Tasks(bank, models, images, [f"task{i % count}" for i in range(batch)])


def _tuned(
    plain: nn.Module, backbone: str, args: Mapping[str, Any], stand_in: Mapping[str, Any] | None
) -> dyt.DynamicModel:
    own: Any = copy.deepcopy(plain)
    own.reset_classifier(CLASSES)
    named = {"name": backbone, "weights": "none", "args": dict(args)}
    spec = {"backbone": named, "adapter": {"dim": 8}, "head": {"num_classes": CLASSES}, "stand_in": stand_in}
    model = dyt.build(spec, backbone=own)
    for site in model.sites:
        nn.init.normal_(site.dispatcher.router.weight, std=0.05)
        nn.init.normal_(site.adapter.up.weight, std=0.02)
        if site.stand_in is not None:
            nn.init.normal_(site.stand_in.up.weight, std=0.02)
    return model.eval()


def apart(one: Sequence[Tensor] | Tensor, other: Sequence[Tensor] | Tensor) -> float:
    """The largest difference of logits."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def bank_points(setting: Setting) -> Iterator[Point]:
    """Eight tasks in a batch of eight."""
    yield Point("each image as alone", partial(_correct, setting), 15)
    yield Point("eager", partial(_speed, setting, False), 15)
    yield Point("compiled", partial(_speed, setting, True), 35)


@lru_cache(maxsize=1)  # making them takes longer than running them
def _made(setting: Setting, dtype: torch.dtype) -> Tasks:
    if setting.small:
        return tasks("vit_tiny_patch16_224", 8, 8, setting.device, dtype, SMALL)
    return tasks(BACKBONES["B"], 8, 8, setting.device, dtype)


@torch.no_grad()
def _correct(setting: Setting) -> dict[str, float]:
    """In float32, by names, by indices, and swapped."""
    made = _made(setting, torch.float32)
    with _no_tf32():
        alone = made.separate()
        found = {
            "names": apart(made.bank(made.images, made.names), alone),
            "indices": apart(made.bank(made.images, made.bank.indices(made.names)), alone),
            "swapped": apart(made.swapped()(), alone),
        }
    for how, difference in found.items():
        require(difference < 1e-4, f"{how}: logits differ by {difference:.1e} from those of each task alone")
    return found


@contextmanager
def _no_tf32() -> Iterator[None]:
    """cuDNN rounds to TF32 by default, and need not do so alike for batches of one and of eight."""
    usual, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = usual


@torch.no_grad()
def _speed(setting: Setting, compiled: bool) -> dict[str, Any]:
    """Paired turns; of the compiled bank, that neither another mix nor another task compiles anew."""
    made = _made(setting, torch.bfloat16 if setting.cuda else torch.float32)
    index = made.bank.indices(made.names)
    calls: dict[str, Callable[[], Any]] = {BANK: partial(made.bank, made.images, index)}
    try:
        if compiled:
            calls[COMPILED] = made.compiled("inductor" if setting.cuda else "eager")
            _stays(made, calls[COMPILED])
        calls |= {SEPARATE: made.separate, SWAPPED: made.swapped()}
        turns = {name: synchronised(call, 1, setting.device) for name, call in calls.items()}
        found = paired(turns, *rounds(setting))
        alone = calls[SEPARATE]()
        differences = {name: apart(call(), alone) for name, call in calls.items()}
    finally:
        torch.compiler.reset()
    of = COMPILED if compiled else BANK
    return {
        "ms": {name: median(times) * 1e3 for name, times in found.seconds.items()},
        "speedup": {name: asdict(found.speedup(of, over=name)) for name in calls if name != of},
        "difference": differences,
    }


def _stays(made: Tasks, call: Callable[[], Tensor]) -> None:
    call()
    assert isinstance(call, partial)
    with torch.compiler.set_stance("fail_on_recompile"):
        call.func(made.images, made.bank.indices(made.names[::-1]))
        made.bank.add("task0", made.models["task1"])
        call.func(made.images, made.bank.indices([made.names[0]] * len(made.names)))
        made.bank.add("task0", made.models["task0"])
