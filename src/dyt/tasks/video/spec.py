"""VideoSpec: which clips, sampled and prepared how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dyt.config.base import Spec
from dyt.tasks.sizes import Size

Count = Annotated[int, Field(ge=1)]


class VideoSpec(Spec):
    """The clips of a video task, by lists as Kinetics-400 and Something-Something-V2 have them.

    Lines of a list are `path label`, separated by a space, a tab or a comma; paths are relative to `root`. classes.txt,
    one name per line, is optional. At inference the shorter side of frames is resized to `size`.
    """

    task: Literal["video"] = "video"
    """The task whose data it is; it decides which other fields there are."""
    root: str
    """Directory of the lists, and of the clips."""
    train: str = "train"
    """List of the training clips, a file in `root`; `.txt` or `.csv` is added to a name that has neither."""
    test: str = "test"
    """List of the test clips, as `train`."""
    frames: Count = 8
    """Number of frames of a clip that the model is given; 8 in the paper."""
    sampling: Literal["dense", "uniform"] = "uniform"
    """Which frames those are. `dense`: every `stride`-th, from a random start in training (Kinetics-400); `uniform`:
    one from each of `frames` equal segments, a random one in training and the middle one at inference
    (Something-Something-V2)."""
    stride: Count = 16
    """With `sampling: dense`: distance between two frames, in frames of the video."""
    temporal_views: Count = 1
    """At inference: number of clips taken along time, whose logits are averaged."""
    spatial_views: Count = 1
    """At inference: number of crops taken along the longer side, whose logits are averaged."""
    short: Literal["pad", "refuse"] = "pad"
    """What a video is that has fewer frames than are sampled (`dense`: than the clip spans). `pad`: its last frame is
    repeated; `refuse`: it is a file that cannot be used."""
    corrupt: Literal["refuse", "skip"] = "refuse"
    """What is done about files that cannot be used (missing, empty, cut off, no video). `refuse`: stop with an error
    that names the file; `skip`: look at every file first, leave those out, and warn of their names and number."""
    augment: Literal["none", "jitter", "crop"] = "jitter"
    """Crops of training clips. `none`; `jitter`: a random crop of a clip whose shorter side is resized to between
    `size` and 8/7 of it (Kinetics-400); `crop`: a random resized crop (Something-Something-V2)."""
    flip: bool = False
    """Whether half of the training clips are mirrored."""
    rand_augment: str | None = None
    """A policy of timm's RandAugment, such as `rand-m9-n2`, applied alike to all frames of a training clip. Null for
    none."""
    size: Size | None = None
    """Size of the frames in pixels: one side, or `[height, width]`. Null takes the backbone's."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation of the resize."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Number of loader processes; the result does not depend on it. Null takes up to 4."""

    @model_validator(mode="after")
    def _used(self) -> VideoSpec:
        if self.sampling == "uniform" and self.stride != VideoSpec.model_fields["stride"].default:
            raise ValueError(f"stride is of sampling: dense; given {self.stride} with sampling: uniform, leave it out")
        return self
