"""Models for inference: exact rewrites, with the same numbers for less work, and int8 weights, with nearly the same."""

from dyt.inference.quantize import quantize
from dyt.inference.rewrites.apply import optimize
from dyt.inference.rewrites.model import InferenceModel, OptimizedModel
from dyt.inference.rewrites.report import BlockReport, Report

__all__ = ["BlockReport", "InferenceModel", "OptimizedModel", "Report", "optimize", "quantize"]
