"""Exact inference rewrites: the same numbers with less work."""

from dyt.rewrites.apply import optimize
from dyt.rewrites.model import OptimizedModel
from dyt.rewrites.report import BlockReport, Report

__all__ = ["BlockReport", "OptimizedModel", "Report", "optimize"]
