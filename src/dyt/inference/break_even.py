"""`dyt.calibrate_break_even`: at which activity skipping tokens takes as long as computing them all, site by site."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dyt.core import context
from dyt.core.breakeven import BreakEven
from dyt.core.offloading import refuse_absent
from dyt.errors import DyTError, UnsupportedError
from dyt.measure.activity import random_masks, routes_of, token_counts
from dyt.measure.latency import paired
from dyt.model.dynamic import DynamicModel, dynamic_of, execution
from dyt.model.site import Site

SHARES = (0.0, 0.5, 1.0)
"""Of the patch tokens, at which skipping is timed; between them its time is a straight line in the active tokens."""
ROUNDS, WARMUP = 5, 1
DENSE = "every token"


@dataclass(frozen=True)
class Calibration:
    """What `dyt.calibrate_break_even` found; `str` of it is for people.

    Attributes:
        sites: the break-even of each site, by its name; none of sites that have nothing to skip.
    """

    sites: Mapping[str, BreakEven]

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: computes every token above "
            + ", ".join(
                f"{share:.0%} at batch {batch}" for batch, share in zip(found.batches, found.shares, strict=True)
            )
            + f"; {found.expected:.0%} active in the sample"
            for name, found in self.sites.items()
        )


@dataclass(frozen=True)
class _Call:
    """What a block was called with in a forward of the whole model, and its sites."""

    block: nn.Module
    sites: Sequence[Site]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def calibrate_break_even(
    model: nn.Module,
    sample: Tensor,
    batch_sizes: Sequence[int] = (1, 8, 32),
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Measures each site's break-even, and makes the model use it in eval mode: above it, a site computes every token.

    The numbers are the same either way: above the break-even the branch runs as under `masked`. On the CPU the active
    tokens of each batch are counted; on a GPU, where counting would stop the host, a site's mean activity on `sample`
    stands for them. `dyt.execution` still overrules it. The break-even is kept by `dyt.save` and `dyt.load`, deepcopy
    and `dyt.optimize`; it is one machine's, and an optimised model has one of its own: calibrate what will run, where
    it will run.

    Each block is timed alone, on what it is given in a forward of the sample, under random masks of several shares, in
    turns with the block that computes every token (`dyt.measure.paired`).

    Args:
        model: the dynamic model, plain or optimised, or what wraps it; only its sites' `break_even` is changed.
        sample: images (B, 3, H, W), or what else the head takes, that are like those to come, for the activity;
            repeated to fill a batch.
        batch_sizes: to measure at, inputs per call; other sizes use the nearest.
        device: to measure on; the model's own by default.
        progress: called after each measurement with how many are done, and how many there are.

    Returns:
        What was found.

    Raises:
        DyTError: no images, or batch sizes that are not whole numbers from 1 on.
        UnsupportedError: a model with a reducer, whose blocks cannot run alone; or weights that are offloaded or
            sharded.
    """
    model = dynamic_of(model)
    refuse_absent(model, "calibrate_break_even")
    batches = sorted(set(batch_sizes))
    if not batches or not all(isinstance(size, int) and size >= 1 for size in batches):
        raise DyTError(
            f"calibrate_break_even: batch_sizes are whole numbers from 1 on, at least one; given {tuple(batch_sizes)}"
        )
    if sample.ndim != 1 + len(model.head.input_shape((1, 1))) or not len(sample):
        wanted = "images (B, 3, H, W)" if len(model.head.input_shape((1, 1))) == 3 else "clips (B, T, 3, H, W)"
        raise DyTError(f"calibrate_break_even: sample is {wanted}, at least one; given shape {tuple(sample.shape)}")
    if model.spec.reducer is not None:
        raise UnsupportedError(
            "calibrate_break_even times blocks one by one; the tokens of a model with a reducer go through all"
        )
    like = next(model.parameters())
    copied = copy.deepcopy(model).to(like.device if device is None else device).eval()
    sample = sample.to(next(copied.parameters()))
    for site in copied.sites:
        site.break_even = None
    expected = {route.site: float(route.active.float().mean()) for route in routes_of(copied, sample)}
    shares: dict[str, list[float]] = {site.name: [] for site in copied.sites if not site.fixed_route}
    frames = len(copied.head.frames(sample[:1]))
    done, total = 0, len(batches) * len(shares)
    with torch.no_grad():
        for batch in batches:
            images = sample.repeat(-(-batch // len(sample)), *[1] * (sample.ndim - 1))[:batch]
            tokens = token_counts(copied, images[:1])
            for call in _calls(copied, images):
                for site in call.sites:
                    shares[site.name].append(_break_even(copied, call, site, tokens, batch * frames))
                    done += 1
                    progress(done, total)
    rows = tuple(batch * frames for batch in batches)
    found = {name: BreakEven(rows, tuple(each), expected[name]) for name, each in shares.items()}
    for site in model.sites:
        site.break_even = found.get(site.name)
    return Calibration(found)


calibrate = calibrate_break_even
"""The name that it had when it was the only calibration, and keeps."""


def _calls(model: DynamicModel, images: Tensor) -> list[_Call]:
    """What each block that has something to skip is called with, in forward order."""
    calls: list[_Call] = []
    handles = []

    def keep(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], sites: Sequence[Site]) -> None:
        calls.append(_Call(block, sites, args, kwargs))

    for block in model.backbone.modules():
        sites = [module for module in block.modules() if isinstance(module, Site) and not module.fixed_route]
        if isinstance(getattr(block, "sites", None), nn.ModuleDict) and sites:
            handles.append(block.register_forward_pre_hook(partial(keep, sites=sites), with_kwargs=True))
    try:
        with execution(model, "complete"):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _break_even(model: DynamicModel, call: _Call, site: Site, tokens: Sequence[tuple[int, int]], batch: int) -> float:
    """The share of active tokens from which on the block takes longer than with every token computed."""
    device = site.threshold.device
    rest = [mask.to(device) for mask in random_masks(tokens, batch, 1.0)]

    def timed(share: float, choice: BreakEven) -> Callable[[], None]:
        own = random_masks([tokens[site.index]], batch, share)[0].to(device)
        masks = (*rest[: site.index], own, *rest[site.index + 1 :])

        def run() -> None:
            site.break_even = choice
            with context.changed(model.key, masks=masks):
                call.block(*call.args, **call.kwargs)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    always, never = (BreakEven((1,), (limit,), 0.0) for limit in (0.0, 1.0))
    skips = {str(share): timed(share, never) for share in SHARES}
    times = paired({DENSE: timed(SHARES[-1], always)} | skips, ROUNDS, WARMUP)
    site.break_even = None
    count, prefix = tokens[site.index]
    shares = [(prefix + share * (count - prefix)) / count for share in SHARES]
    return crossing(shares, [times.speedup(DENSE, over=str(share)).median for share in SHARES])


def crossing(shares: Sequence[float], times: Sequence[float]) -> float:
    """Where relative times, ascending with the shares, first reach 1, on straight lines between them.

    0 where the first is not below 1, 1 where all are.
    """
    if times[0] >= 1:
        return 0.0
    for i in range(1, len(shares)):
        if times[i] >= 1:
            part = (1 - times[i - 1]) / (times[i] - times[i - 1])
            return shares[i - 1] + part * (shares[i] - shares[i - 1])
    return 1.0
