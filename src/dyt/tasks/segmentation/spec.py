"""SegmentationSpec: which images and masks, cropped how in training, and seen how at inference."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dyt.config.base import Spec
from dyt.tasks.sizes import Pixels, Size, pair

Positive = Annotated[float, Field(gt=0.0)]


class SegmentationSpec(Spec):
    """Images and masks in ADE20K's layout: root/images/<split>/*.jpg, root/annotations/<split>/*.png, of equal stems.

    A mask has one channel (grey, or a palette whose indices are the labels); 255 is left out of loss and metrics.
    `train`, `test`: names of splits; `test` by default is `test`, or `validation` where there is none. `classes`: a
    file in root with a class name a line, or ADE20K's objectInfo150.txt. `reduce_zero_label`: label 0 is no class and
    counts as 255, the others are lowered by one (ADE20K).

    `size`: of the crops, pixels of a side or (H, W), the backbone's by default. `resize`: the shorter side of images,
    before crops and at inference; None leaves them. Masks stay as they are at inference: logits are brought to their
    size. `scale`: range of a factor drawn for each training image. `flip`: chance of a mirrored one.

    `inference`: `slide` goes over the image in windows of `size`, `stride` apart (2/3 of size by default), and takes
    the mean of the logits where they overlap; `whole` gives it to the model whole, which needs a backbone that takes
    images of any size. What is missing to a whole window, or to whole patches, is padded with the mean colour. `batch`:
    windows of an image that are run at once.

    `workers`: loader processes; None takes up to 4. The result does not depend on it.
    """

    task: Literal["segmentation"] = "segmentation"
    root: str
    train: str = "training"
    test: str | None = None
    classes: str = "classes.txt"
    reduce_zero_label: bool = False
    size: Size | None = None
    resize: Pixels | None = None
    scale: tuple[Positive, Positive] = (0.5, 2.0)
    flip: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    inference: Literal["slide", "whole"] = "slide"
    stride: Pixels | None = None
    batch: Annotated[int, Field(ge=1)] = 16
    workers: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SegmentationSpec:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale goes from the smaller to the larger factor; given {list(self.scale)}")
        if self.stride is not None and self.size is not None and self.stride > min(pair(self.size)):
            raise ValueError(f"stride {self.stride} is above size {self.size}: windows would leave pixels out")
        if self.stride is not None and self.inference == "whole":
            raise ValueError("stride is of windows, which inference: whole has none of; leave it out")
        if self.batch != SegmentationSpec.model_fields["batch"].default and self.inference == "whole":
            raise ValueError("batch is of windows, which inference: whole has none of; leave it out")
        return self
