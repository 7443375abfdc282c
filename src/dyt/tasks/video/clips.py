"""Clips: a split of videos as tensors, each a pure function of position and seed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from random import Random

import torch
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from dyt.tasks.base import Examples
from dyt.tasks.layouts import Split
from dyt.tasks.loading import seeded
from dyt.tasks.preparation import Preparation
from dyt.tasks.sizes import cover, pair
from dyt.tasks.video.decoding import decoded
from dyt.tasks.video.lists import checked
from dyt.tasks.video.sampling import inference_positions, training_positions
from dyt.tasks.video.spec import VideoSpec

Choose = Callable[[int], list[list[int]]]
"""The number of frames of a video -> positions of the frames of each clip."""


class Clips(Examples):
    """Videos and labels: in training (T, C, H, W) uint8, at inference all views, (V, T, C, H, W).

    Args:
        single: at inference one view, in the middle of time and frame, (T, C, H, W).
    """

    def __init__(
        self, split: Split, spec: VideoSpec, preparation: Preparation, training: bool, single: bool = False
    ) -> None:
        super().__init__(split)
        self.spec, self.preparation, self.training, self.single = spec, preparation, training, single
        self.how = InterpolationMode(spec.interpolation)

    def example(self, position: int, seed: int) -> tuple[Tensor, int]:
        clip = self.trained(position, seed) if self.training else self.viewed(position)
        return clip, self.split.labels[position]

    def trained(self, position: int, seed: int) -> Tensor:
        """A random clip, augmented, (T, C, H, W) uint8."""
        draw = Random(seed)
        frames = self._read(position, lambda count: [training_positions(count, self.spec, draw)])[0]
        with seeded(seed):
            return self._augmented(frames)

    def viewed(self, position: int) -> Tensor:
        """The views at inference, (V, T, C, H, W) uint8, or the single one, (T, C, H, W)."""
        spec, size = self.spec, self.preparation.size
        times, places = (1, 1) if self.single else (spec.temporal_views, spec.spatial_views)
        clips = self._read(position, lambda count: inference_positions(count, spec, times))
        views = torch.stack([crop for clip in clips for crop in crops(self._resized(clip, size), size, places)])
        return views[0] if self.single else views

    def _read(self, position: int, choose: Choose) -> list[Tensor]:
        """The chosen clips of a video, (T, C, H, W) uint8 each, decoded together."""
        path = self.split.paths[position]
        sizes: list[int] = []

        def every(count: int) -> list[int]:
            chosen = choose(count)
            sizes.extend(len(clip) for clip in chosen)
            return list(chain.from_iterable(chosen))

        if self.spec.short == "refuse":
            checked(path, self.spec)
        frames = decoded(path, every, lenient=self.spec.corrupt == "skip").permute(0, 3, 1, 2)
        frames = F.rgb_to_grayscale(frames) if self.preparation.channels == 1 else frames
        return list(torch.split(frames, sizes))

    def _augmented(self, frames: Tensor) -> Tensor:
        """One draw of every transform, alike for all frames of the clip."""
        spec, size = self.spec, self.preparation.size
        if spec.rand_augment is not None:
            frames = randomly_augmented(frames, spec.rand_augment, self.preparation.mean)
        if spec.augment == "crop":
            aspect = size[1] / size[0]
            ratio = (3 / 4 * aspect, 4 / 3 * aspect)
            frames = v2.RandomResizedCrop(size, ratio=ratio, interpolation=self.how, antialias=True)(frames)
        elif spec.augment == "jitter":
            height = int(torch.randint(size[0], round(size[0] * 8 / 7) + 1, ()))
            frames = v2.RandomCrop(size)(
                self._resized(frames, (height, max(round(height * size[1] / size[0]), size[1])))
            )
        else:
            frames = crops(self._resized(frames, size), size, 1)[0]
        return v2.RandomHorizontalFlip()(frames) if spec.flip else frames

    def _resized(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """To the smallest that covers (H, W)."""
        height, width = frames.shape[-2:]
        resized: Tensor = F.resize(frames, list(cover(height, width, size)), interpolation=self.how, antialias=True)
        return resized


def crops(frames: Tensor, size: int | tuple[int, int], count: int) -> list[Tensor]:
    """`count` crops (T, C, H, W) at equal distances along the side that is too long; one is in the middle.

    `frames`: (T, C, h, w), one of the sides that of `size` (a side, or (H, W)).
    """
    height, width = pair(size)
    down, across = frames.shape[-2] - height, frames.shape[-1] - width
    room = max(down, across)
    starts = [room // 2] if count == 1 else [round(room * i / (count - 1)) for i in range(count)]
    return [
        frames[..., start : start + height, :width] if down > across else frames[..., :height, start : start + width]
        for start in starts
    ]


def randomly_augmented(frames: Tensor, config: str, mean: tuple[float, ...]) -> Tensor:
    """timm's RandAugment of (T, C, H, W) uint8, C of 1 or 3, alike for all frames.

    Every frame is changed from the same random state: the same operations, as strong. `config`: timm's, such as
    rand-m9-n2. `mean`: in [0, 1], fills what a frame is moved away from.
    """
    augment = rand_augment_transform(config, {"img_mean": tuple(round(255 * value) for value in mean)})
    seed = int(torch.randint(2**31, ()))
    out = []
    for frame in frames:
        with seeded(seed):
            image = augment(F.to_pil_image(frame))
        out.append(F.pil_to_tensor(image))
    return torch.stack(out)
