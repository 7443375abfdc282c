"""The part `train`: training steps over that of a static adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

import dyt
from dyt.measure import paired
from dyt.train import recipe
from gpu_parts.setting import BACKBONES, SMALL, Point, Setting, rounds


def train_points(setting: Setting) -> Iterator[Point]:
    """Training steps."""
    for size, batch in (("B", 64), ("S", 64)) if setting.cuda else (("vit_tiny_patch16_224", 2),):
        yield Point(f"{size}, batch {batch}", partial(_train, setting, BACKBONES.get(size, size), batch), 20)


def _train(setting: Setting, backbone: str, batch: int) -> dict[str, Any]:
    size = SMALL["img_size"] if setting.small else 224
    images = torch.randn(batch, 3, size, size, device=setting.device)
    labels = torch.arange(batch, device=setting.device) % 100
    specs = {name: dyt.preset(name).model_dump(mode="json") for name in ("static_adapter_vtab", "dyt_vtab")}
    specs["default recipe"] = recipe("default")["model"]
    calls: dict[str, Callable[[], None]] = {}
    for name, spec in specs.items():
        args = SMALL if setting.small else {}
        spec = spec | {
            "backbone": {"name": backbone, "weights": "none", "args": args},
            "head": {"num_classes": 100},
        }
        step = dyt.TuningStep(dyt.build(spec).to(setting.device).train())
        calls[name] = partial(_stepped, step, images, labels, setting)
    found = paired(calls, *rounds(setting))
    static = "static_adapter_vtab"
    return {
        name: {"ms": found.best(name) * 1e3, "of static": asdict(found.speedup(static, over=name))} for name in specs
    }


def _stepped(step: dyt.TuningStep, images: Tensor, labels: Tensor, setting: Setting) -> None:
    step.zero_grad(set_to_none=True)
    with torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.cuda):
        loss, _ = step(images, labels, 1.0, 0)
    loss.backward()
    if setting.cuda:
        torch.cuda.synchronize(setting.device)
