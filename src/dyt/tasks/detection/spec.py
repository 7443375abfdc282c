"""DetectionSpec: which images and annotations, prepared how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dyt.config.base import Spec
from dyt.tasks.sizes import Size

Factor = Annotated[float, Field(gt=0.0)]


class DetectionSpec(Spec):
    """The images of a detection task and their objects.

    `root`: a directory. `train`, `test`: the annotation files, COCO's JSON: a path in root, or the name of a split,
    `instances_<name>.json` in root or root/annotations; by default `train` or `train2017`, and `test`, `val` or
    `val2017`. `images`: the directory of the images in root; by default that of the split's name, or `images`, or root
    itself, where the first image lies. `masks`: read the outlines too, which `mask_rcnn` needs. `wrong_boxes`: boxes
    that lie outside of their image or have no area are answered by name (`refuse`), or cut to the image and, with
    nothing left, left out (`leave_out`; COCO's own training set has one).

    `size`: pixels of a side, or (H, W); the backbone's by default. An image is resized bilinearly to the largest that
    fits into it, and filled up at the right or the bottom with the mean colour. `flip`: chance of a mirrored image in
    training. `jitter`: in training the size is first multiplied by a factor drawn from this range, and a random window
    taken of what is too large (ViTDet: 0.1 to 2); None for neither. `workers`: loader processes; None takes up to 4.
    """

    task: Literal["detection"] = "detection"
    root: str
    train: str | None = None
    test: str | None = None
    images: str | None = None
    masks: bool = False
    wrong_boxes: Literal["refuse", "leave_out"] = "refuse"
    size: Size | None = None
    flip: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    jitter: tuple[Factor, Factor] | None = None
    workers: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> DetectionSpec:
        if self.jitter is not None and self.jitter[0] > self.jitter[1]:
            raise ValueError(f"jitter is {list(self.jitter)}: the smaller factor comes first")
        return self
