"""The part `speed`: forwards against dense timm, and the share of what the arithmetic promises."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import timm
import torch
from torch import Tensor, nn

import dyt
from dyt.measure import paired
from dyt.measure.costs import dense_macs
from dyt.registry import executors
from gpu_parts.products import MARGIN
from gpu_parts.setting import (
    BACKBONES,
    DENSE,
    TARGET,
    Point,
    Setting,
    built,
    duration,
    rounds,
    run_as,
    synchronised,
)

BATCHES = (32, 128, 8, 1)
RATES = (0.5, 0.3, 0.7)
KERNELS, CAPACITY = "kernels", "kernels and capacity"
LAUNCHES: Mapping[str, Collection[str] | None] = {
    "": None,
    ", tail joined": ("residual", "pack", "tail"),
    ", launched apart": (),
}
"""Which kernels are launched as one, by what is added to a form's name: as they are, and the others to compare with."""


def speed_points(setting: Setting) -> Iterator[Point]:
    """Forwards, the most telling first. Seconds are mostly those of the compiler, five times a point or four."""
    if not setting.cuda:
        yield Point("small", partial(_speed, setting, "vit_tiny_patch16_224", 2, "eager"), 20)
        return
    compiled = [
        *(("B", 128, 50), ("B", 32, 65), ("S", 128, 45), ("L", 32, 85), ("S", 32, 45), ("L", 128, 90)),
        *(("B", 8, 45), ("S", 8, 45), ("L", 8, 80), ("B", 1, 45)),
    ]
    for size, batch, seconds in compiled:
        yield Point(_named(size, batch, "compiled"), partial(_speed, setting, size, batch, "compiled"), seconds)
    for mode in ("graph", "eager"):
        for size in ("B", "S", "L"):
            for batch in BATCHES:
                yield Point(_named(size, batch, mode), partial(_speed, setting, size, batch, mode), 15)


def _named(size: str, batch: int, mode: str) -> str:
    return f"ViT-{size}/16, batch {batch}, {mode}"


def _promised(fast: dyt.DynamicModel, dense: nn.Module, image: Tensor, rate: float) -> float:
    """How many times fewer multiply-accumulates the optimised model needs than dense timm at this rate."""
    masks = dyt.measure.random_masks(dyt.measure.token_counts(fast, image), 1, rate)
    with dyt.forced(fast, [mask.to(image.device) for mask in masks]):
        own = float(dyt.count_macs(fast, image).double().mean())
    return float(dense_macs(dense, image, fast.head)) / own


@dataclass(frozen=True)
class _Form:
    """A way of running the dynamic model: its name, its rate, the model, and of `LAUNCHES` which are compared."""

    name: str
    rate: float
    model: dyt.DynamicModel
    launches: Sequence[str] = ("",)


def _forms(setting: Setting, model: dyt.DynamicModel, images: Tensor, mode: str, all_of_them: bool) -> Iterator[_Form]:
    """The optimised model at each rate, its thresholds set for it, with a capacity.

    At the first rate also with other launches, and with `all_of_them` without a capacity.
    """
    kernels = executors.get("triton").refusal(setting.device) is None and mode != "eager"
    for rate in RATES:
        site = next(iter(model.sites))
        if site.capacity is not None:
            for each in model.sites:
                each.capacity = None
        dyt.calibrate_thresholds(model, [images], rate)
        if not kernels:
            yield _Form("sparse", rate, dyt.optimize(model))
            continue
        if rate == RATES[0] and all_of_them:
            yield _Form(KERNELS, rate, dyt.optimize(model, kernels="triton"))
        dyt.calibrate_capacity(model, [images], margin=MARGIN, together=len(images))
        launches = ([*LAUNCHES] if all_of_them else [*LAUNCHES][:2]) if rate == RATES[0] else [""]
        yield _Form(CAPACITY, rate, dyt.optimize(model, kernels="triton"), launches)


def _speed(setting: Setting, size: str, batch: int, mode: str) -> dict[str, Any]:
    """Dense timm and the optimised model at each rate, in turns; its own routers decide, by thresholds for the rate."""
    backbone, dtype = BACKBONES.get(size, size), torch.bfloat16 if setting.cuda else torch.float32
    model, images = built(setting, dtype=dtype, backbone=backbone, batch=batch, checked=False)
    dense = timm.create_model(backbone, **model.spec.backbone.args).to(images).eval()
    plain, forms = dyt.optimize(model), {}
    with torch.no_grad(), run_as(setting, mode) as ready:
        calls: dict[str, Callable[[], Any]] = {DENSE: ready(dense, images)[0]}
        for form in _forms(setting, model, images, mode, mode == "graph" or (size, batch) == ("B", 32)):
            active = _active(form.model, images)
            runs = ready(form.model, images, [LAUNCHES[each] for each in form.launches])
            for launch, call in zip(form.launches, runs, strict=True):
                name = f"{form.name}{launch}, {form.rate}"
                forms[name], calls[name] = (replace(form, name=form.name + launch), active), call
        times = max(1, round(TARGET / duration(calls[DENSE], setting))) if setting.cuda else 1
        timed = {name: synchronised(call, times, setting.device) for name, call in calls.items()}
        found = paired(timed, *rounds(setting))
    rows = []
    for name, (form, active) in forms.items():
        promised, speedup = _promised(plain, dense, images[:1], form.rate), found.speedup(name, over=DENSE)
        rows.append(
            {
                "form": form.name,
                "active": active,
                "ms": median(found.seconds[name]) / times * 1e3,
                "speedup": asdict(speedup),
                "promised": promised,
                "share": (speedup.median - 1) / (promised - 1),
            }
        )
    return {"dense ms": median(found.seconds[DENSE]) / times * 1e3, "rows": rows}


def _active(model: dyt.DynamicModel, images: Tensor) -> float:
    """The share of active patch tokens, of the blocks that have something to skip."""
    with dyt.record(model) as routes:
        model(images)
    rates = [
        float(route.active[:, route.prefix :].float().mean())
        for site, route in zip(model.sites, routes, strict=True)
        if not site.fixed_route
    ]
    return sum(rates) / len(rates)
