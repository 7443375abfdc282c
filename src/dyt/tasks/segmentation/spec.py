"""SegmentationSpec: which images and masks, cropped how in training, and seen how at inference."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dyt.config.base import Spec
from dyt.tasks.sizes import Pixels, Size, pair

Positive = Annotated[float, Field(gt=0.0)]


class SegmentationSpec(Spec):
    """Images and masks in ADE20K's layout: root/images/<split>/*.jpg, root/annotations/<split>/*.png, of equal stems.

    A mask has one channel (grey, or a palette whose indices are the labels); label 255 is ignored by loss and metrics.
    What an image lacks of a whole window, or of whole patches, is padded with the mean colour.
    """

    task: Literal["segmentation"] = "segmentation"
    """The task whose data it is; it decides which other fields there are."""
    root: str
    """Directory of the data."""
    train: str = "training"
    """Name of the training split."""
    test: str | None = None
    """Name of the test split. Null takes `test`, or `validation` where there is none."""
    classes: str = "classes.txt"
    """File in `root` with one class name per line, or ADE20K's objectInfo150.txt."""
    reduce_zero_label: bool = False
    """Whether label 0 is no class: it then counts as 255, and all other labels are lowered by one (ADE20K)."""
    size: Size | None = None
    """Size of training crops and of windows at inference, in pixels: one side, or `[height, width]`. Null takes the
    backbone's."""
    resize: Pixels | None = None
    """Length in pixels to which the shorter side of images is resized, before crops and at inference. Masks keep their
    size at inference: logits are resized to it. Null leaves images as they are."""
    scale: tuple[Positive, Positive] = (0.5, 2.0)
    """Range of a factor, drawn for each training image, that multiplies its size."""
    flip: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Probability with which a training image is mirrored."""
    inference: Literal["slide", "whole"] = "slide"
    """How an image is read at inference. `slide`: in windows of `size`, `stride` apart, with the mean of the logits
    where they overlap; `whole`: at once, which needs a backbone that takes images of any size."""
    stride: Pixels | None = None
    """With `inference: slide`: distance in pixels between windows, at most `size`. Null takes 2/3 of `size`."""
    batch: Annotated[int, Field(ge=1)] = 16
    """With `inference: slide`: number of an image's windows that are computed at once."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Number of loader processes; the result does not depend on it. Null takes up to 4."""

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
