"""Data, heads and metrics of the tasks that a model is fine-tuned for."""

from dyt.tasks.data import Data, DataSpec, open_data, open_split
from dyt.tasks.images import ImageError, open_image, to_rgb
from dyt.tasks.layouts import DataError, Split

__all__ = [
    "Data",
    "DataError",
    "DataSpec",
    "ImageError",
    "Split",
    "open_data",
    "open_image",
    "open_split",
    "to_rgb",
]
