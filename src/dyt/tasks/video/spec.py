"""VideoSpec: which clips, sampled and prepared how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dyt.config.base import Spec
from dyt.tasks.sizes import Size

Count = Annotated[int, Field(ge=1)]


class VideoSpec(Spec):
    """The clips of a video task.

    `root`: a directory with the list files `train` and `test` (`.txt` or `.csv` is added where the name has neither):
    lines `path label`, separated by a space, a tab or a comma, as lists for Kinetics-400 and Something-Something-V2
    have them; paths are relative to root. classes.txt, one name a line, is optional.

    `frames`: of a clip. `sampling`: `dense` takes every `stride`-th frame, from a random start in training (K400);
    `uniform` takes one frame from each of as many equal segments, a random one in training and the middle one at
    inference (SSv2). `temporal_views`, `spatial_views`: at inference so many clips along time, and crops along the
    longer side, whose logits are averaged.

    `short`: what a clip of fewer frames than are sampled (dense: than the clip spans) is: `pad` repeats its last frame;
    `refuse` takes it for a file that cannot be used. `corrupt`: what is done about a file that cannot be used (missing,
    empty, cut off, no video): `refuse` stops and names it; `skip` looks at every file first, leaves those out, and
    warns of their names and number.

    `augment`: of training: `none`; `jitter`, a random crop of a clip whose shorter side is resized to between size and
    8/7 of it (K400); `crop`, a random resized crop (SSv2). `flip`: half of the clips mirrored. `rand_augment`: timm's
    string for RandAugment, such as rand-m9-n2, alike for all frames of a clip. At inference the shorter side is resized
    to size. `size`: pixels of a side, or (H, W), which frames are resized to cover; the backbone's by default.
    `workers`: loader processes; the result does not depend on it.
    """

    task: Literal["video"] = "video"
    root: str
    train: str = "train"
    test: str = "test"
    frames: Count = 8
    sampling: Literal["dense", "uniform"] = "uniform"
    stride: Count = 16
    temporal_views: Count = 1
    spatial_views: Count = 1
    short: Literal["pad", "refuse"] = "pad"
    corrupt: Literal["refuse", "skip"] = "refuse"
    augment: Literal["none", "jitter", "crop"] = "jitter"
    flip: bool = False
    rand_augment: str | None = None
    size: Size | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    workers: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _used(self) -> VideoSpec:
        if self.sampling == "uniform" and self.stride != VideoSpec.model_fields["stride"].default:
            raise ValueError(f"stride is of sampling: dense; given {self.stride} with sampling: uniform, leave it out")
        return self
