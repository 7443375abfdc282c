"""Multiply-accumulates, activation statistics, latency and plots."""

from dyt.measure.macs import count_macs

__all__ = ["count_macs"]
