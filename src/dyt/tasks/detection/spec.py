"""DetectionSpec: which images and annotations, prepared how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dyt.config.base import Spec
from dyt.tasks.sizes import Size

Factor = Annotated[float, Field(gt=0.0)]


class DetectionSpec(Spec):
    """The images of a detection task and their objects.

    An image is resized bilinearly to the largest size that fits into `size`, and padded at the right or the bottom with
    the mean colour.
    """

    task: Literal["detection"] = "detection"
    """The task whose data it is; it decides which other fields there are."""
    root: str
    """Directory of the data."""
    train: str | None = None
    """Annotations of the training images, as COCO's JSON: a path in `root`, or the name of a split, which is read from
    `instances_<name>.json` in root or root/annotations. Null takes `train` or `train2017`."""
    test: str | None = None
    """Annotations of the test images, as `train`. Null takes `test`, `val` or `val2017`."""
    images: str | None = None
    """Directory of the images, in `root`. Null takes the one in which the first image lies, of that with the split's
    name, `images`, and root itself."""
    masks: bool = False
    """Whether outlines are read as well, which `mask_rcnn` needs."""
    wrong_boxes: Literal["refuse", "leave_out"] = "refuse"
    """What is done about boxes that lie outside their image or have no area. `refuse`: stop with an error that names
    them; `leave_out`: cut them to the image and leave out those of which nothing remains (COCO's own training set has
    one)."""
    size: Size | None = None
    """Size of the images in pixels: one side, or `[height, width]`. Null takes the backbone's."""
    flip: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Probability with which a training image is mirrored."""
    jitter: tuple[Factor, Factor] | None = None
    """Range of a factor that multiplies the size of each training image, of which a random window is taken where it is
    too large (`[0.1, 2]` in ViTDet). Null for neither."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Number of loader processes; the result does not depend on it. Null takes up to 4."""

    @model_validator(mode="after")
    def _ordered(self) -> DetectionSpec:
        if self.jitter is not None and self.jitter[0] > self.jitter[1]:
            raise ValueError(f"jitter is {list(self.jitter)}: the smaller factor comes first")
        return self
