"""Multiply-accumulates, activation statistics, latency, and plots (`dyt.measure.plots`, which imports matplotlib)."""

from dyt.measure.activity import patch_maps, random_masks, routes_of, site_rates, token_counts
from dyt.measure.flops import MacCounter
from dyt.measure.frames import frame_rates
from dyt.measure.latency import Comparison, Interval, median_interval, paired
from dyt.measure.macs import count_macs, executed_macs

__all__ = [
    "Comparison",
    "Interval",
    "MacCounter",
    "count_macs",
    "executed_macs",
    "frame_rates",
    "median_interval",
    "paired",
    "patch_maps",
    "random_masks",
    "routes_of",
    "site_rates",
    "token_counts",
]
