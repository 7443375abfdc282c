"""Models for inference: exact rewrites, with the same numbers for less work, and int8 weights, with nearly the same."""

from dyt.rewrites.apply import optimize
from dyt.rewrites.int8 import quantize
from dyt.rewrites.model import InferenceModel, OptimizedModel
from dyt.rewrites.report import BlockReport, Report

__all__ = ["BlockReport", "InferenceModel", "OptimizedModel", "Report", "optimize", "quantize"]
