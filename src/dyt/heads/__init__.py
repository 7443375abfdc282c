"""What stands behind the backbone for a task, and what it is trained for: one file per head."""

from dyt.heads.base import Head, TaskHeadSpec
from dyt.heads.classifier import Classifier
from dyt.heads.detector import Detector, MaskDetector
from dyt.heads.terms import classification, distillation

__all__ = ["Classifier", "Detector", "Head", "MaskDetector", "TaskHeadSpec", "classification", "distillation"]
