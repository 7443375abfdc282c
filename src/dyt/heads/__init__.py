"""What stands behind the backbone for a task, and what it is trained for: one file per head."""

from dyt.heads.base import Head, TaskHeadSpec
from dyt.heads.classifier import Classifier, ClassifierSpec
from dyt.heads.detector import Detector, FasterRCNNSpec, MaskDetector, MaskRCNNSpec
from dyt.heads.pixel import Pixel, PixelSpec
from dyt.heads.query import Query, QuerySpec
from dyt.heads.terms import classification, distillation
from dyt.heads.tokens import ImageTokens, Tokens, TokensSpec
from dyt.heads.upernet import UPerNet, UPerNetSpec

__all__ = [
    "Classifier",
    "ClassifierSpec",
    "Detector",
    "FasterRCNNSpec",
    "Head",
    "ImageTokens",
    "MaskDetector",
    "MaskRCNNSpec",
    "Pixel",
    "PixelSpec",
    "Query",
    "QuerySpec",
    "TaskHeadSpec",
    "Tokens",
    "TokensSpec",
    "UPerNet",
    "UPerNetSpec",
    "classification",
    "distillation",
]
