"""The part `speed`: forwards against dense timm, and the share of what the arithmetic promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
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


def speed_points(setting: Setting) -> Iterator[Point]:
    """Forwards, the most telling first."""
    if not setting.cuda:
        yield Point("small", partial(_speed, setting, "vit_tiny_patch16_224", 2, "eager"), 20)
        return
    compiled = [
        ("B", 32),
        ("B", 128),
        ("L", 32),
        ("S", 128),
        ("B", 8),
        ("B", 1),
        ("S", 32),
        ("L", 128),
        ("S", 8),
        ("L", 8),
    ]
    for size, batch in compiled:
        yield Point(_named(size, batch, "compiled"), partial(_speed, setting, size, batch, "compiled"), 30)
    for mode in ("eager", "graph"):
        for size in ("B", "S", "L"):
            for batch in BATCHES:
                yield Point(_named(size, batch, mode), partial(_speed, setting, size, batch, mode), 12)


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
    """A way of running the dynamic model: its name, its rate, and the model."""

    name: str
    rate: float
    model: dyt.DynamicModel


def _forms(setting: Setting, model: dyt.DynamicModel, images: Tensor, mode: str) -> Iterator[_Form]:
    """The optimised model at each rate, its thresholds set for it: with a capacity, at the first rate also without."""
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
        if rate == RATES[0]:
            yield _Form("kernels", rate, dyt.optimize(model, kernels="triton"))
        dyt.calibrate_capacity(model, [images], margin=MARGIN, together=len(images))
        yield _Form("kernels and capacity", rate, dyt.optimize(model, kernels="triton"))


def _speed(setting: Setting, size: str, batch: int, mode: str) -> dict[str, Any]:
    """Dense timm and the optimised model at each rate, in turns; its own routers decide, by thresholds for the rate."""
    backbone, dtype = BACKBONES.get(size, size), torch.bfloat16 if setting.cuda else torch.float32
    model, images = built(setting, dtype=dtype, backbone=backbone, batch=batch, checked=False)
    dense = timm.create_model(backbone, **model.spec.backbone.args).to(images).eval()
    plain, forms = dyt.optimize(model), {}
    with torch.no_grad(), run_as(setting, mode) as ready:
        calls: dict[str, Callable[[], Any]] = {DENSE: ready(dense, images)}
        for form in _forms(setting, model, images, mode):
            name = f"{form.name}, {form.rate}"
            forms[name] = form, _active(form.model, images)
            calls[name] = ready(form.model, images)
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
