"""`detection`: the objects of an image, as boxes and outlines, in COCO's JSON layout."""

from dyt.tasks.detection.spec import DetectionSpec
from dyt.tasks.detection.task import Detection

__all__ = ["Detection", "DetectionSpec"]
