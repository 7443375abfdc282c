"""The parts `device`, `kernels` and `profile`: ceilings, the products of a branch, and where a forward's time goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional as F

import dyt
from dyt.registry import executors
from gpu_parts.setting import BACKBONES, DENSE, Point, Setting, built, duration, joined, repeated, require, run_as

MARGIN = 0.02
"""By how much a capacity is above the calibration images' need."""


def device_points(setting: Setting) -> Iterator[Point]:
    """The ceilings."""
    yield Point("ceilings", partial(_ceilings, setting), 5)


def _ceilings(setting: Setting) -> dict[str, float]:
    size, dtype = (256, torch.float32) if setting.small else (8192, torch.bfloat16)
    a, b = (torch.randn(size, size, device=setting.device, dtype=dtype) for _ in range(2))
    product = 2 * size**3 / duration(lambda: a @ b, setting)
    source = torch.randn(2**16 if setting.small else 2**28, device=setting.device)
    target = torch.empty_like(source)
    copy = 2 * source.numel() * 4 / duration(lambda: target.copy_(source), setting)
    return {"product, TFLOP/s": product / 1e12, "copy, TB/s": copy / 1e12}


def kernel_points(setting: Setting) -> Iterator[Point]:
    """The two products of an MLP branch: all rows and half of them by cuBLAS, and half by kernels that read a count."""
    if executors.get("triton").refusal(setting.device) is not None:
        return
    sizes = [(384, 6304), (768, 6304), (768, 25216), (1024, 6304)] if setting.cuda else [(24, 10)]
    for channels, tokens in [(768, 6304), (768, 25216), (384, 25216)] if setting.cuda else sizes:
        yield Point(f"launches, C {channels}, T {tokens}", partial(_launches, setting, channels, tokens), 12)
    for channels, tokens in sizes:
        yield Point(f"C {channels}, T {tokens}", partial(_kernels, setting, channels, tokens), 25)


def _kernels(setting: Setting, channels: int, tokens: int) -> dict[str, Any]:
    from dyt.executors.triton import launch, tuning

    device, dtype, half = setting.device, torch.bfloat16 if setting.cuda else torch.float32, tokens // 2
    found: dict[str, Any] = {}
    index = torch.randperm(tokens, device=device)[:half].sort().values.to(torch.int32)
    index = F.pad(index, (0, tokens - half))
    count = torch.tensor(half, dtype=torch.int32, device=device)
    for name, (width, depth) in {"fc1": (4 * channels, channels), "fc2": (channels, 4 * channels)}.items():
        a = torch.randn(tokens, depth, device=device, dtype=dtype)
        weight = torch.randn(width, depth, device=device, dtype=dtype) / depth**0.5
        bias = torch.randn(width, device=device, dtype=dtype)
        out = torch.zeros(tokens, width, device=device, dtype=dtype)
        gelu = name == "fc1"
        calls: dict[str, Callable[[], Any]] = {
            "cuBLAS, all rows": lambda: F.linear(a, weight, bias),  # noqa: B023
            "cuBLAS, half": lambda: F.linear(a[:half], weight, bias),  # noqa: B023
        }
        for label, described in {"Triton, pointers": False, "Triton, descriptors": True}.items():
            calls[label] = partial(
                launch.product, a, weight, bias, None, index, count, out, gelu, not gelu, described=described
            )
        if setting.cuda and hasattr(F, "grouped_mm"):
            right, offsets = weight.t().unsqueeze(0), count.reshape(1)
            calls["grouped product"] = lambda: F.grouped_mm(a, right, offs=offsets)  # noqa: B023
        expected = F.linear(a[:half].float(), weight.float(), bias.float())
        for label, call in calls.items():
            try:
                out.zero_()
                call()
                if label.startswith("Triton"):
                    given = out[:half].float() if gelu else out[index[:half].long()].float()
                    want = F.gelu(expected) if gelu else expected
                    off = float((given - want).norm() / want.norm())
                    require(off < 1e-2, f"{label}, {name}: relative difference {off:.1e}")
                seconds = repeated(call, setting)
            except Exception as reason:  # a candidate that this version lacks must not hide the others
                found[f"{name}, {label}"] = f"{type(reason).__name__}: {reason}"[:300]
                continue
            rows = tokens if "all" in label else half
            found[f"{name}, {label}"] = {
                "us": round(seconds * 1e6, 1),
                "TFLOP/s": round(2 * rows * width * depth / seconds / 1e12, 1),
            }
        for label, kernel in {"pointers": tuning.pointers, "descriptors": tuning.described}.items():
            if kernel.cache:
                found[f"{name}, tiles, {label}"] = str(list(kernel.cache.values())[-1])
    return found


def _launches(setting: Setting, channels: int, tokens: int) -> dict[str, float]:
    """Microseconds of the branch at half of the tokens, with a capacity, and of the adapter, by what is `joined`."""
    from dyt.executors.triton import launch, launch_adapter

    device, dtype, width, hidden = setting.device, torch.bfloat16 if setting.cuda else torch.float32, 4 * channels, 64
    torch.manual_seed(0)
    shapes = (width, channels), (width,), (channels, width), (channels,), (channels,), (channels,)
    w1, b1, w2, b2, gamma, beta = ((torch.randn(*s) / s[-1] ** 0.5).to(device, dtype) for s in shapes)
    shapes = (hidden, channels), (hidden,), (channels, hidden), (channels,), (1, channels), (1,)
    down, down_bias, up, up_bias, router, router_bias = ((torch.randn(*s) * 0.02).to(device, dtype) for s in shapes)
    x, other, out = (torch.randn(tokens, channels).to(device, dtype) for _ in range(3))
    active = (torch.rand(tokens) < 0.5).to(device)
    norm, rows = (gamma, beta, 1e-6), int(tokens * (0.5 + MARGIN))
    weights = (down, down_bias), (up, up_bias), (router, router_bias), "relu"

    def branch(onto: Tensor = out) -> Tensor:
        launch.mlp_onto(x, active, norm, (w1, b1), (w2, b2), None, onto, rows)
        return onto

    def adapter() -> Tensor:
        return launch_adapter.adapted(x, *weights, other)[1]

    with torch.no_grad():
        hidden_TD = F.gelu(
            F.linear(F.layer_norm(x.float(), (channels,), gamma.float(), beta.float()), w1.float(), b1.float())
        )
        added = F.linear(hidden_TD, w2.float(), b2.float()) * active[:, None]
        sums = (x + other).float()
        adapted = sums + F.linear(F.linear(sums, down.float(), down_bias.float()).relu(), up.float(), up_bias.float())
    checked = {
        "branch": (lambda: branch(torch.zeros_like(out)), added),
        "adapter": (adapter, adapted),
        "pack": (lambda: launch.packed(x, active, norm)[1][: int(active.sum())], active.nonzero().squeeze(1)),
    }
    calls: dict[str, tuple[Collection[str], Callable[[], Any]]] = {
        "branch, apart": ((), branch),
        "branch, pack": (("pack",), branch),
        "branch, pack and tail": (("pack", "tail"), branch),
        "pack, apart": ((), lambda: launch.packed(x, active, norm)),
        "pack, joined": (("pack",), lambda: launch.packed(x, active, norm)),
        "adapter, apart": ((), adapter),
        "adapter, joined": (("residual",), adapter),
    }
    found = {}
    for name, (launches, call) in calls.items():
        with joined(launches), torch.no_grad():
            given, expected = checked[name.partition(",")[0]]
            off = float((given().float() - expected.float()).norm() / expected.float().norm())
            require(off < 2e-2, f"{name}: relative difference {off:.1e}")
            found[name] = round(repeated(call, setting) * 1e6, 2)
    return found


def profile_points(setting: Setting) -> Iterator[Point]:
    """Where the time of a forward goes."""
    if setting.cuda:
        yield Point("ViT-B/16, batch 32, compiled", partial(_profile, setting, "B", 32), 80)


def _profile(setting: Setting, size: str, batch: int) -> dict[str, Sequence[tuple[str, int, float]]]:
    """(kernel, calls, microseconds) of one forward at rate 0.5, by the time that they take in all."""
    backbone = BACKBONES[size]
    model, images = built(setting, dtype=torch.bfloat16, backbone=backbone, batch=batch, checked=False)
    dyt.calibrate_thresholds(model, [images], 0.5)
    dyt.calibrate_capacity(model, [images], margin=MARGIN, together=batch)
    dense = timm.create_model(backbone).to(images).eval()
    found = {}
    with torch.no_grad(), run_as(setting, "compiled") as ready:
        for name, each in {DENSE: dense, "optimised": dyt.optimize(model, kernels="triton")}.items():
            [replay] = ready(each, images)
            replay()
            torch.cuda.synchronize()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                for _ in range(10):
                    replay()
                torch.cuda.synchronize()
            rows = [
                (event.key[:110], event.count // 10, round(event.self_device_time_total / 10, 1))
                for event in profile.key_averages()
                if event.self_device_time_total
            ]
            found[name] = sorted(rows, key=lambda row: -row[2])[:22]
    return found
