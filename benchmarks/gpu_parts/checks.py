"""The part `correct`: executors, CUDA graphs, waiting for the device, and training, on the device at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import dyt
from dyt.core import context
from dyt.core.execution import TokenCapacity
from dyt.measure import random_masks, token_counts
from dyt.registry import executors
from gpu_parts.setting import Point, Setting, built, replayed, require

VARIANTS = ("mlp", "attn", "attn_mlp", "layer")
DTYPES: Mapping[str, tuple[torch.dtype, float]] = {
    "float32": (torch.float32, 1e-4),
    "bfloat16": (torch.bfloat16, 4e-2),
    "float16": (torch.float16, 5e-3),
}
"""Dtypes, and how far apart logits may be: the norm of the difference over that of `masked`'s."""
MASKS = {"none": 0.0, "few": 0.05, "half": 0.5, "all": 1.0}
"""Kinds of masks, with their share of active patch tokens."""
STATIC = ("capacity", "triton")
"""Executors whose shapes do not depend on data."""


def points(setting: Setting) -> Iterator[Point]:
    """All checks; each raises where it does not hold."""
    for dtype in DTYPES if setting.cuda else ("float32",):
        for variant in VARIANTS:
            yield Point(f"forward {variant} {dtype}", partial(forwards, setting, variant, dtype), 6)
    yield Point("gradients", partial(gradients, setting), 10)
    yield Point("step of two passes", partial(two_passes, setting), 10)
    if setting.cuda:
        yield Point("CUDA graphs with changing masks", partial(graphs, setting), 10)
        yield Point("nothing waits for the device", partial(no_waiting, setting), 10)
        yield Point("float16 training with a GradScaler", partial(scaled_training, setting), 10)


def forwards(setting: Setting, variant: str, dtype: str) -> dict[str, float]:
    """Every executor and rewrite against `masked` for every kind of masks: the largest relative difference of each."""
    kind, tolerance = DTYPES[dtype]
    model, images = built(setting, variant, kind)
    rewrites = {}
    if variant == "mlp":
        rewrites["optimised"] = dyt.optimize(model)
        if runs(setting, "triton"):
            rewrites["optimised, kernels"] = dyt.optimize(model, kernels="triton")
            rewrites["optimised, kernels, capacity"] = with_room(dyt.optimize(model, kernels="triton"))
    found: dict[str, float] = {}
    with torch.no_grad():
        for share in MASKS.values():
            masks = masks_of(setting, model, images, share)
            with dyt.forced(model, masks), dyt.execution(model, "masked"):
                expected = model(images)
            for name in executors.names():
                if name == "masked" or not runs(setting, name) or (name == "triton" and variant != "mlp"):
                    continue
                with dyt.forced(model, masks), dyt.execution(model, name):
                    found[name] = max(found.get(name, 0.0), apart(model(images), expected))
            for name, fast in rewrites.items():
                with dyt.forced(fast, masks):
                    found[name] = max(found.get(name, 0.0), apart(fast(images), expected))
    for name, difference in found.items():
        require(difference <= tolerance, f"{name}: relative difference {difference:.2e} is above {tolerance:.0e}")
    return found


def gradients(setting: Setting) -> dict[str, float]:
    """The gradients of what is trained, under forced masks, on the device and on the CPU."""
    found: dict[str, float] = {}
    for share in MASKS.values():
        expected: dict[str, Tensor] = {}
        for device, name in [("cpu", "masked"), *((str(setting.device), name) for name in _backward(setting))]:
            model, images = built(setting, "mlp", torch.float32, device=torch.device(device))
            masks = masks_of(setting, model, images, share)
            model.train()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0  # each device would draw its own
            labels = torch.arange(len(images), device=images.device) % 5
            with dyt.forced(model, masks), dyt.execution(model, name):
                torch.nn.functional.cross_entropy(model(images), labels).backward()
            given = {key: p.grad.cpu() for key, p in model.named_parameters() if p.grad is not None}
            if not expected:
                expected = given
                continue
            require(given.keys() == expected.keys(), f"{name}: gradients of other parameters than on the CPU")
            joined = [torch.cat([grads[key].flatten() for key in expected]) for grads in (given, expected)]
            found[name] = max(found.get(name, 0.0), apart(*joined))
    for name, difference in found.items():
        require(difference <= 1e-3, f"{name}: gradients differ by {difference:.2e} from the CPU's")
    return found


def _backward(setting: Setting) -> list[str]:
    return [name for name in executors.names() if name != "triton" and runs(setting, name)]


def two_passes(setting: Setting) -> dict[str, float]:
    """The economical step equals the plain one: loss and gradients, from the same random state."""
    results = []
    for economical in (True, False):
        model, images = built(setting, "mlp", torch.float32)
        labels = torch.arange(len(images), device=images.device) % 5
        step = dyt.TuningStep(model.train(), economical=economical)
        torch.manual_seed(1)
        loss, _ = step(images, labels, 0.5, 0)
        loss.backward()
        grads = [p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None]
        results.append((loss.detach(), torch.cat(grads)))
    (loss, grads), (plain_loss, plain_grads) = results
    found = {"loss": float((loss - plain_loss).abs() / plain_loss.abs()), "gradients": apart(grads, plain_grads)}
    require(max(found.values()) <= 1e-3, f"the economical step differs from the plain one: {found}")
    return found


def graphs(setting: Setting) -> dict[str, float]:
    """A captured forward, replayed with other masks and images, equals `masked` on those."""
    found: dict[str, float] = {}
    for name in filter(partial(runs, setting), STATIC):
        model, images = built(setting, "mlp", torch.float32)
        masks = masks_of(setting, model, images, 0.5)
        with torch.no_grad(), dyt.forced(model, masks), dyt.execution(model, name):
            replay, out = replayed(lambda: model(images))  # noqa: B023 - called at once
        for turn, share in enumerate((0.1, 0.9, 0.0, 1.0, 0.5)):
            images.copy_(torch.randn_like(images))
            for mask, new in zip(masks, masks_of(setting, model, images, share, seed=turn), strict=True):
                mask.copy_(new)
            replay()
            with torch.no_grad(), dyt.forced(model, masks), dyt.execution(model, "masked"):
                found[name] = max(found.get(name, 0.0), apart(out, model(images)))
    for name, difference in found.items():
        require(difference <= 1e-4, f"{name}: a replayed forward differs by {difference:.2e}")
    return found


def no_waiting(setting: Setting) -> list[str]:
    """Forwards of static executors and of the optimised model with kernels never wait for the device."""
    model, images = built(setting, "mlp", torch.bfloat16)
    calls: dict[str, Callable[[], Any]] = {}
    for name in filter(partial(runs, setting), STATIC):
        calls[name] = partial(executed, model, images, name)
    calls["optimised, kernels"] = partial(dyt.optimize(model, kernels="triton"), images)
    calls["optimised, kernels, capacity"] = partial(with_room(dyt.optimize(model, kernels="triton")), images)
    done = []
    with torch.no_grad():
        for name, call in calls.items():
            call()
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            done.append(name)
    return done


def scaled_training(setting: Setting) -> dict[str, float]:
    """Twenty steps in float16 with loss scaling lower the loss, and nothing becomes infinite."""
    model, images = built(setting, "mlp", torch.float32)
    step = dyt.TuningStep(model.train())
    labels = torch.arange(len(images), device=images.device) % 5
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, scaler = torch.optim.AdamW(trained, lr=1e-3), torch.amp.GradScaler("cuda")
    losses = []
    for turn in range(20):
        with torch.autocast("cuda", torch.float16):
            loss, _ = step(images, labels, turn / 20, turn)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    require(all(bool(p.isfinite().all()) for p in trained), "a trained parameter is not finite")
    require(losses[-1] < 0.7 * losses[0], f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f} only")
    return {"first": losses[0], "last": losses[-1], "scale": float(scaler.get_scale())}


def with_room(model: dyt.DynamicModel) -> dyt.DynamicModel:
    """The model with a capacity of a third of the tokens, which some of the masks are above."""
    for site in model.sites:
        site.capacity = TokenCapacity(1 / 3)
    return model


def executed(model: dyt.DynamicModel, images: Tensor, name: str) -> Tensor:
    """A forward with that executor; `capacity` without the question that waits for the device."""
    executor = executors.get(name)()
    if name == "capacity":
        executor = executor.at(TokenCapacity(0.75, "nan"))
    with context.changed(model.key, executor=executor):
        return model(images)


def runs(setting: Setting, name: str) -> bool:
    """Whether an executor can run on the device."""
    return executors.get(name).refusal(setting.device) is None


def masks_of(setting: Setting, model: dyt.DynamicModel, images: Tensor, share: float, seed: int = 0) -> list[Tensor]:
    """Random masks on the images' device, the prefix active."""
    made = random_masks(token_counts(model, images[:1]), len(images), share, seed)
    return [mask.to(images.device) for mask in made]


def apart(given: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what was expected; infinite where anything is not finite."""
    difference = (given.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
    return float(difference) if bool(difference.isfinite()) else float("inf")
