"""What stands behind the backbone for a task, and what it is trained for: one file per head."""

from dyt.heads.base import Head, TaskHeadSpec
from dyt.heads.classifier import Classifier
from dyt.heads.detector import Detector, MaskDetector
from dyt.heads.pixel import Pixel
from dyt.heads.query import Query, QuerySpec
from dyt.heads.terms import classification, distillation
from dyt.heads.upernet import UPerNet, UPerNetSpec

__all__ = [
    "Classifier",
    "Detector",
    "Head",
    "MaskDetector",
    "Pixel",
    "Query",
    "QuerySpec",
    "TaskHeadSpec",
    "UPerNet",
    "UPerNetSpec",
    "classification",
    "distillation",
]
