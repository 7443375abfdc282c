"""The fine-tuning loss (paper section 3.5) and what a step of it takes: its passes, its parts, its thresholds."""

from dyt.objective.step import TuningStep

__all__ = ["TuningStep"]
