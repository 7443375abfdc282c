"""`dyt.Budget`: what a forward may cost, in multiply-accumulates or milliseconds, as a rate of a calibrated model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn

from dyt.assembly.backbone import input_size
from dyt.core.budgets import BudgetTable
from dyt.core.offloading import refuse_absent
from dyt.errors import DyTError
from dyt.measure.activity import random_masks, token_counts
from dyt.measure.latency import paired
from dyt.measure.macs import count_macs
from dyt.measure.shapes import ShapesOnly
from dyt.model.dynamic import DynamicModel, dynamic_of, forced, record

ROUNDS, WARMUP = 7, 2
ROUTED, AGAIN = "routed", "the same routes, given"
SPARE = 1e-9
"""Of a budget, so that one that is the cost of a row is not out of reach by rounding."""


@dataclass(frozen=True)
class Budget:
    """What an image may cost: exactly one of `gmacs` and `latency_ms`. `model.budget = dyt.Budget(gmacs=0.8)` sets it.

    Attributes:
        gmacs: expected executed multiply-accumulates per image, or clip, in units of 10^9, by the convention of
            `dyt.count_macs`: at the rates that the sites had in calibration, each image at the mean, and for images of
            the backbone's size.
        latency_ms: milliseconds that the median forward takes at most. The model is timed at each rate of its table, on
            random inputs under random masks of the sites' rates, the routers' time added; the largest rate that is fast
            enough is taken. It is one machine's.
        device: where that is timed; the model's own by default.
        batch: inputs of the forward that is timed.

    Raises:
        DyTError: none or both are given, or a number that is not above 0 and finite.
    """

    gmacs: float | None = None
    latency_ms: float | None = None
    device: str | torch.device | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        given = [value for value in (self.gmacs, self.latency_ms) if value is not None]
        sound = all(type(value) in {int, float} and 0 < value < float("inf") for value in given)
        if len(given) != 1 or not sound or type(self.batch) is not int or self.batch < 1:
            raise DyTError(
                f"Budget has gmacs or latency_ms, one of them, a number above 0, and batch from 1 on; given "
                f"gmacs={self.gmacs!r}, latency_ms={self.latency_ms!r}, batch={self.batch!r}"
            )

    def rate_of(self, model: nn.Module) -> float:
        """The rate of a calibrated model that it comes to.

        Raises:
            DyTError: out of reach, with the range that there is; or a model without a table of budgets.
            UnsupportedError: weights that are offloaded or sharded.
        """
        model = dynamic_of(model)
        table = model.calibrated_table()
        refuse_absent(model, "Budget")
        if self.gmacs is not None:
            return _interpolated(table, row_gmacs(model), self.gmacs)
        assert self.latency_ms is not None
        times = row_latencies(model, self.batch, self.device)
        fast = [rate for rate, time in zip(table.rates, times, strict=True) if time <= self.latency_ms]
        if not fast:
            raise _out_of_reach(f"{self.latency_ms:g} ms at batch {self.batch}", times, table, "ms")
        return fast[-1]


def _interpolated(table: BudgetTable, costs: Sequence[float], budget: float) -> float:
    low, high = min(costs), max(costs)
    if not low * (1 - SPARE) <= budget <= high * (1 + SPARE):
        raise _out_of_reach(f"{budget:g} GMACs per image", costs, table, "GMACs")
    for (first, below), (second, above) in pairwise(zip(table.rates, costs, strict=True)):
        if budget <= above and above > below:
            return first + max(budget - below, 0.0) / (above - below) * (second - first)
    return table.rates[-1]


def _out_of_reach(asked: str, costs: Sequence[float], table: BudgetTable, unit: str) -> DyTError:
    low, high = table.range
    return DyTError(
        f"budget of {asked} is out of reach: at rates from {low:g} to {high:g} the model takes {min(costs):.4g} to "
        f"{max(costs):.4g} {unit}"
    )


def row_gmacs(model: nn.Module) -> tuple[float, ...]:
    """Expected executed GMACs per image of a calibrated model, at each rate of its table.

    Raises:
        DyTError: a model without a table of budgets.
        UnsupportedError: as `dyt.count_macs`.
    """
    model = dynamic_of(model)
    like = next(model.parameters())
    with ShapesOnly() if like.device.type == "cpu" else nullcontext():
        image = torch.zeros(1, *model.head.input_shape(input_size(model.backbone))).to(like)
        with record(model) as routes:
            routed = int(count_macs(model, image))
        with forced(model, [route.active for route in routes]):
            routers = routed - int(count_macs(model, image))  # forced masks leave the routers out
        found = _macs(model, image, _site_rates(model))
    return tuple((macs + routers) / 1e9 for macs in found)


def _site_rates(model: DynamicModel) -> list[list[float]]:
    """For each rate of the table the sites' own."""
    table = model.calibrated_table()
    return [[table.sites[site.name].rates[row] for site in model.sites] for row in range(len(table.rates))]


def _macs(model: DynamicModel, image: Tensor, rows: Sequence[Sequence[float]]) -> list[float]:
    """Of an input at the sites' rates of each row; at sample level the mean over images that are active or not."""
    if all(site.dispatcher.level == "token" for site in model.sites):
        return _counted(model, image, rows)
    sites = range(len(rows[0]))
    least, *alone = _counted(model, image, [[float(i == k) for i in sites] for k in (-1, *sites)])
    return [least + sum(rate * (own - least) for rate, own in zip(row, alone, strict=True)) for row in rows]


def _counted(model: DynamicModel, image: Tensor, rows: Sequence[Sequence[float]]) -> list[float]:
    """Of each row as an image of one batch."""
    tokens, frames = token_counts(model, image), len(model.head.frames(image))
    masks = [torch.cat(own) for own in zip(*(_masks(tokens, frames, row) for row in rows), strict=True)]
    with forced(model, [mask.to(image.device) for mask in masks]):
        return [float(macs) for macs in count_macs(model, image.expand(len(rows), *image.shape[1:]).contiguous())]


def _masks(tokens: Sequence[tuple[int, int]], images: int, rates: Sequence[float]) -> list[Tensor]:
    return [random_masks([own], images, rate)[0] for own, rate in zip(tokens, rates, strict=True)]


@torch.no_grad()
def row_latencies(model: nn.Module, batch: int = 1, device: str | torch.device | None = None) -> tuple[float, ...]:
    """Median milliseconds of a forward of a calibrated model at each rate of its table, as `Budget` measures them."""
    model = dynamic_of(model)
    rates, own = model.calibrated_table().rates, next(model.parameters())
    copied = copy.deepcopy(model).to(own.device if device is None else device).eval()
    like = next(copied.parameters())
    shape = copied.head.input_shape(input_size(copied.backbone))
    inputs = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    frames = len(copied.head.frames(inputs[:1]))
    tokens = token_counts(copied, inputs[:1])
    with record(copied) as routes:
        copied(inputs)

    def run() -> None:
        copied(inputs)
        if like.device.type != "cpu":
            torch.accelerator.synchronize(like.device)

    def under(masks: Sequence[Tensor]) -> Callable[[], None]:
        masks = [mask.to(like.device) for mask in masks]

        def forward() -> None:
            with forced(copied, masks):
                run()

        return forward

    fns = {
        str(rate): under(_masks(tokens, batch * frames, each))
        for rate, each in zip(rates, _site_rates(copied), strict=True)
    }
    fns |= {ROUTED: run, AGAIN: under([route.active for route in routes])}
    seconds = paired(fns, ROUNDS, WARMUP).seconds
    routers = max(0.0, median(a - b for a, b in zip(seconds[ROUTED], seconds[AGAIN], strict=True)))
    return tuple(1e3 * (median(seconds[str(rate)]) + routers) for rate in rates)
