"""`video`: one label for a clip (paper table 6: Kinetics-400, Something-Something-V2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from dyt.errors import UnsupportedError
from dyt.model.dynamic import DynamicModel
from dyt.tasks.base import Answer, Measure, Task
from dyt.tasks.classification import Accuracy
from dyt.tasks.data import Data
from dyt.tasks.layouts import Split
from dyt.tasks.preparation import Preparation
from dyt.tasks.video.clips import Clips
from dyt.tasks.video.lists import list_split, listed_classes, open_lists
from dyt.tasks.video.spec import VideoSpec


class Video(Task):
    """Clips and labels; at inference the logits of several views of a clip are averaged."""

    name: ClassVar[str] = "video"
    head: ClassVar[str] = "query"
    Spec: ClassVar[type[Any]] = VideoSpec
    unit: ClassVar[str] = "clip"
    draws: ClassVar[bool] = True
    batch: ClassVar[int] = 8

    def open(self, spec: VideoSpec) -> Data:
        return open_lists(spec)

    def open_split(self, spec: VideoSpec, split: str | None, classes: Sequence[str]) -> Split:
        return list_split(spec, split or spec.test, classes)

    def training_split(self, spec: VideoSpec) -> str:
        return spec.train

    def check(self, model: DynamicModel, spec: VideoSpec) -> None:
        super().check(model, spec)
        channels = Preparation.of(model.backbone).channels
        if channels not in {1, 3}:
            raise UnsupportedError(
                f"frames of videos have 1 or 3 channels, the model takes {channels}; set model.backbone.args.in_chans"
            )

    def named(self, spec: VideoSpec, split: str | None) -> tuple[str, ...] | None:
        return listed_classes(Path(spec.root))

    def examples(self, spec: VideoSpec, split: Split, preparation: Preparation, training: bool) -> Clips:
        return Clips(split, spec, preparation, training)

    def sample(self, spec: VideoSpec, split: Split, preparation: Preparation) -> Clips:
        return Clips(split, spec, preparation, training=False, single=True)

    def measure(self, classes: Sequence[str], device: torch.device) -> Measure:
        return Accuracy(len(classes), device)

    def infer(self, model: DynamicModel, inputs: Tensor, spec: Any) -> Tensor:
        """Views (B, V, T, 3, H, W) -> the mean of their logits, (B, K); they are run a view at a time."""
        logits: Tensor = torch.stack([model(view) for view in inputs.unbind(1)]).mean(0)
        return logits

    def draw(
        self,
        model: DynamicModel,
        spec: Any,
        files: Sequence[Path],
        classes: Sequence[str],
        out: Path,
        top: int = 1,
    ) -> list[Answer]:
        """The classes of each clip over all views, and a picture of its middle view's frames with their active patches.

        Raises:
            DyTError: a file that cannot be read, or a backbone whose tokens are no grid.
        """
        from dyt.tasks.video.drawing import drawn

        return drawn(self, model, spec, files, classes, out, top)
