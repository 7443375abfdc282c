"""`segmentation`: a class for every pixel of an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from dyt.model.dynamic import DynamicModel
from dyt.tasks.base import Answer, Measure, Task
from dyt.tasks.data import Data
from dyt.tasks.layouts import Split
from dyt.tasks.preparation import Preparation
from dyt.tasks.segmentation import windows
from dyt.tasks.segmentation.examples import Pairs
from dyt.tasks.segmentation.layout import Masked, class_names, open_split, reader, test_split
from dyt.tasks.segmentation.metrics import Overlap
from dyt.tasks.segmentation.spec import SegmentationSpec


class Segmentation(Task):
    """Images and masks. At inference an image is one batch, whatever its size."""

    name: ClassVar[str] = "segmentation"
    head: ClassVar[str] = "pixel"
    Spec: ClassVar[type[Any]] = SegmentationSpec
    draws: ClassVar[bool] = True
    batch: ClassVar[int] = 1

    def open(self, spec: SegmentationSpec) -> Data:
        classes = class_names(Path(spec.root), spec.classes)
        train, test = (open_split(spec, name, classes) for name in (spec.train, test_split(spec)))
        return Data(train, test, classes)

    def open_split(self, spec: SegmentationSpec, split: str | None, classes: Sequence[str]) -> Split:
        return open_split(spec, test_split(spec) if split is None else split, classes)

    def training_split(self, spec: SegmentationSpec) -> str:
        return spec.train

    def named(self, spec: SegmentationSpec, split: str | None) -> tuple[str, ...] | None:
        return class_names(Path(spec.root), spec.classes)

    def check(self, model: DynamicModel, spec: SegmentationSpec) -> None:
        windows.check(model.backbone, windows.side(model, spec), spec.inference, spec.stride)

    def examples(self, spec: SegmentationSpec, split: Split, preparation: Preparation, training: bool) -> Pairs:
        return Pairs(_masked(split), spec, preparation, "crops" if training else "whole")

    def sample(self, spec: SegmentationSpec, split: Split, preparation: Preparation) -> Pairs:
        """Crops about the middle, without jitter."""
        return Pairs(_masked(split), spec, preparation, "centre")

    def measure(self, classes: Sequence[str], device: torch.device) -> Measure:
        return Overlap(classes, device)

    def infer(self, model: DynamicModel, inputs: Tensor, spec: SegmentationSpec | None) -> Tensor:
        """Logits (B, K, H, W) of images (B, C, H, W) of any size, in windows or whole; without a spec as they are."""
        return model(inputs) if spec is None else windows.over(model, inputs, spec, model)

    def draw(
        self,
        model: DynamicModel,
        spec: SegmentationSpec,
        files: Sequence[Path],
        classes: Sequence[str],
        out: Path,
        top: int = 1,
    ) -> list[Answer]:
        """Writes NAME_mask.png, the predicted classes over the image, NAME_labels.png, their numbers from 0 by pixel,
        and NAME_activity.png, by layer what was active. In `data`: `shares` of the pixels by class, and these paths.

        Raises:
            ImageError: a file that cannot be read.
        """
        from dyt.tasks.segmentation.pictures import draw

        return draw(model, spec, self.examples(spec, alone(files), _prepared(model, spec), False), classes, out)


def alone(files: Sequence[Path]) -> Masked:
    """Images without masks, as a split."""
    return Masked("images", (), reader(files), tuple(files))


def _masked(split: Split) -> Masked:
    return split if isinstance(split, Masked) else alone(split.paths)


def _prepared(model: DynamicModel, spec: SegmentationSpec) -> Preparation:
    return Preparation.of(model.backbone, spec.size)
