"""The task `detection`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from dyt.errors import UnsupportedError
from dyt.model.dynamic import DynamicModel
from dyt.tasks.base import Answer, Measure, Task, stems
from dyt.tasks.data import Data
from dyt.tasks.detection.coco import ObjectSplit, annotation_file, categories, coco_split, content_of
from dyt.tasks.detection.drawing import drawn
from dyt.tasks.detection.examples import ObjectImages
from dyt.tasks.detection.metric import AveragePrecision
from dyt.tasks.detection.spec import DetectionSpec
from dyt.tasks.layouts import Split
from dyt.tasks.preparation import Preparation


class Detection(Task):
    """Images and the boxes, outlines and classes of their objects."""

    name: ClassVar[str] = "detection"
    head: ClassVar[str] = "faster_rcnn"
    Spec: ClassVar[type[Any]] = DetectionSpec
    draws: ClassVar[bool] = True
    batch: ClassVar[int] = 8

    def check(self, model: DynamicModel, spec: DetectionSpec) -> None:
        super().check(model, spec)
        name, outlined = model.spec.head.type, "masks" in getattr(model.head, "needs", ())
        if outlined and not spec.masks:
            raise UnsupportedError(f"head '{name}' is trained with outlines; set data.masks: true")
        if spec.masks and not outlined:
            raise UnsupportedError(f"head '{name}' has no outlines; leave data.masks at false, or take mask_rcnn")

    def open(self, spec: DetectionSpec) -> Data:
        _check_installed()
        files = [annotation_file(spec, None, training) for training in (True, False)]
        contents = [content_of(file) for file in files]
        classes = tuple(categories(files[0], contents[0]).values())
        train, test = (coco_split(spec, file, c, classes) for file, c in zip(files, contents, strict=True))
        return Data(train, test, classes)

    def open_split(self, spec: DetectionSpec, split: str | None, classes: Sequence[str]) -> Split:
        _check_installed()
        file = annotation_file(spec, split, training=False)
        return coco_split(spec, file, content_of(file), classes)

    def training_split(self, spec: DetectionSpec) -> str:
        return str(annotation_file(spec, None, training=True).relative_to(spec.root))

    def named(self, spec: DetectionSpec, split: str | None) -> tuple[str, ...] | None:
        file = annotation_file(spec, split, training=False)
        return tuple(categories(file, content_of(file)).values())

    def examples(self, spec: DetectionSpec, split: Split, preparation: Preparation, training: bool) -> ObjectImages:
        return ObjectImages(cast(ObjectSplit, split), spec, preparation, training)

    def measure(self, classes: Sequence[str], device: torch.device) -> Measure:
        return AveragePrecision()

    def draw(
        self,
        model: DynamicModel,
        spec: DetectionSpec,
        files: Sequence[Path],
        classes: Sequence[str],
        out: Path,
        top: int = 1,
    ) -> list[Answer]:
        """The objects of each image, drawn into NAME_objects.png, and NAME_activity.png, by layer what was active.

        In `data`, all of them: `boxes` (xyxy in pixels), `labels`, `scores`, and of a head that has outlines `masks`,
        COCO's compressed run lengths.

        Raises:
            ImageError: a file that cannot be read.
            UnsupportedError: outlines, and no pycocotools.
        """
        if "masks" in getattr(model.head, "needs", ()):
            _check_installed()
        preparation = Preparation.of(model.backbone, spec.size)
        return [
            drawn(model, preparation, file, classes, out, stem) for file, stem in zip(files, stems(files), strict=True)
        ]


def _check_installed() -> None:
    if find_spec("pycocotools") is None:
        raise UnsupportedError("detection needs pycocotools, not installed here; pip install 'dyt[detection]'")
