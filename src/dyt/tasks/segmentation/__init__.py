"""Semantic segmentation: a class for every pixel."""

from dyt.tasks.segmentation.spec import SegmentationSpec
from dyt.tasks.segmentation.task import Segmentation

__all__ = ["Segmentation", "SegmentationSpec"]
