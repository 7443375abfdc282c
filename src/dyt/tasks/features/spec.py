"""FeaturesSpec: which images without labels, split and prepared how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dyt.config.base import Spec
from dyt.tasks.sizes import Size


class FeaturesSpec(Spec):
    """Images without labels: every image file below a folder, however it lies there.

    Class folders are not read as such. At inference, and in training without augmentation, images are prepared as the
    encoder's own description says.
    """

    task: Literal["features"] = "features"
    """The task whose data it is; it decides which other fields there are."""
    root: str
    """Directory of the images."""
    train: str | None = None
    """The training images: a folder in `root`, or a list in it, one path a line (what follows the path as a label is
    ignored); `.txt` is added to a name where that is a file. Null takes every image in `root` but those of `test`."""
    test: str | None = None
    """The images that are measured on, as `train`. Null holds out a share of the training images."""
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """With `test: null`: the share of the images that is held out, drawn by `split_seed`; at least one image."""
    split_seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """With `test: null`: seed by which they are drawn, so that a saved model is measured on the same ones."""
    size: Size | None = None
    """Size of the images in pixels: one side, or `[height, width]`. Null takes the backbone's, which otherwise follows
    where it can."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    """Interpolation of the resize. Null takes the encoder's own."""
    augment: Literal["none", "crop"] = "none"
    """Training images. `none`: prepared as at inference, so that the untouched encoder's tokens are computed once;
    `crop`: random resized crop and flip."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Number of loader processes; the result does not depend on it. Null takes up to 4, and none when images are
    cached."""
    cache: bool | None = None
    """Whether the decoded images of `augment: none` are kept in memory. Null does so up to 2 GiB per split."""

    @model_validator(mode="after")
    def _used(self) -> FeaturesSpec:
        if self.test is not None:
            for name in ("held_out", "split_seed"):
                if getattr(self, name) != FeaturesSpec.model_fields[name].default:
                    raise ValueError(f"{name} is of test: null; given test: '{self.test}', leave {name} out")
        if self.cache and self.augment != "none":
            raise ValueError(f"cache keeps images that are not augmented; given augment: {self.augment}, leave it out")
        return self
