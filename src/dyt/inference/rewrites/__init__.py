"""Models for inference: exact rewrites, with the same numbers for less work, and int8 weights, with nearly the same."""

from dyt.deprecated import renamed
from dyt.inference.quantize import quantize
from dyt.inference.rewrites.apply import optimize
from dyt.inference.rewrites.model import InferenceModel, OptimizedModel
from dyt.inference.rewrites.report import BlockReport, OptimizationReport

__all__ = ["BlockReport", "InferenceModel", "OptimizationReport", "OptimizedModel", "optimize", "quantize"]

__getattr__ = renamed(__name__, {"Report": "OptimizationReport"})
