"""The fine-tuning loss (paper section 3.5) and what a step of it takes: its passes, its parts, its thresholds."""

from dyt.objective.joint import feature_distance, mean_over_ranks
from dyt.objective.step import TuningStep

__all__ = ["TuningStep", "feature_distance", "mean_over_ranks"]
