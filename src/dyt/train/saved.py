"""A saved model with how its images are prepared and what its classes are called: from its file, or from beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyt.config.spec import parse
from dyt.core.data_config import attached
from dyt.errors import CheckpointError
from dyt.io.checkpoint import load
from dyt.io.foreign import outside
from dyt.model.dynamic import DynamicModel
from dyt.tasks.base import Task
from dyt.tasks.described import data_of
from dyt.tasks.kinds import TASKS, AnyDataSpec
from dyt.tasks.layouts import DataError, Split, read_lines
from dyt.tasks.loading import loader
from dyt.tasks.preparation import Preparation
from dyt.train.randomness import permutation
from dyt.train.state import CLASSES, run_of
from dyt.train.workers import worker_count

CALIBRATION_IMAGES = 1024
"""At most so many training images are looked at to set thresholds."""


@dataclass(frozen=True)
class Saved:
    """A loaded model, ready for images.

    Attributes:
        model: in eval mode, on `device`.
        data: how the run's data was prepared, and where it lay (empty without a run.yaml beside the file); None where
            neither the file nor a run.yaml says it.
        classes: names, by output; None without a list of them.
        classes_from: where the names are from.
        device: the accelerator when there is one, else the CPU.
        outside: that the file's data spec names something outside of the data's directory; None where it does not,
            and where that was trusted.
    """

    model: DynamicModel
    data: AnyDataSpec | None
    classes: tuple[str, ...] | None
    classes_from: str
    device: torch.device
    outside: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, or the numbers of the outputs."""
        return self.classes or tuple(str(i) for i in range(self.model.num_classes))

    @property
    def task(self) -> Task:
        """What the model was made for."""
        return TASKS[self.model.head.task]

    def spec(self, root: str | None, workers: int | None = None) -> AnyDataSpec:
        """How to prepare the images in `root` (None: where the run's data lay): as the run did.

        Raises:
            DataError: no root, and no run beside the model.
        """
        if root is None and not (self.data is not None and self.data.root):
            raise DataError("give --data, the directory of the images; there is no run.yaml beside the model")
        if self.data is None:
            made: AnyDataSpec = parse(self.task.Spec, {"root": root, "workers": workers})
            return made
        return self.data.model_copy(update={"root": root or self.data.root, "workers": workers})

    def split(self, spec: AnyDataSpec, name: str | None) -> Split:
        """A split of that data; its classes must be among the model's, by name. Of a model without names, as many.

        Raises:
            DataError: other classes, or data that cannot be used.
            CheckpointError: a file that names something outside of the data's directory.
        """
        if self.outside is not None:
            raise CheckpointError(
                f"{self.outside}, which is outside of the data's directory and not opened on a file's word; give "
                f"--trust-paths (open_saved(..., trust_paths=True)) for a file of your own"
            )
        names = self.names
        if self.classes is None:
            names = self.task.named(spec, name) or names
            if len(names) != self.model.num_classes:
                raise DataError(f"'{spec.root}' has {len(names)} classes, the model {self.model.num_classes}")
        return self.task.open_split(spec, name, names)

    def training_split(self, spec: AnyDataSpec) -> str:
        """The name of the training split of that data."""
        return self.task.training_split(spec)

    def batches(
        self, spec: AnyDataSpec, split: Split, positions: Sequence[int], size: int | None = None, sample: bool = False
    ) -> Iterator[tuple[Tensor, Any]]:
        """(images (B, C, H, W) normalised, targets) on the model's device, prepared as at inference.

        `size`: of a batch; the task's by default. `sample`: what a single forward takes (of clips, one view), in place
        of what the task evaluates.
        """
        size = self.task.batch if size is None else size
        preparation = Preparation.of(self.model.backbone, spec.size)
        task = self.task
        images = task.sample(spec, split, preparation) if sample else task.examples(spec, split, preparation, False)
        plan = [[(i, 0) for i in positions[k : k + size]] for k in range(0, len(positions), size)]
        for batch, targets in loader(images, plan, worker_count(spec.workers)):
            yield preparation.normalized(batch.to(self.device)), self.task.to(targets, self.device)

    def calibration(self, spec: AnyDataSpec, size: int | None = None) -> Iterator[Tensor]:
        """Training images of that data, (B, C, H, W), at most 1,024 and always the same ones, to set thresholds on.

        Raises:
            DataError, CheckpointError: as `split`.
        """
        training = self.split(spec, self.training_split(spec))
        some = permutation(len(training), 0, "calibration")[:CALIBRATION_IMAGES]
        for images, _ in self.batches(spec, training, some, size, sample=True):
            yield images

    def sample(self, root: str | None, count: int) -> Tensor:
        """So many test images of that data (see `spec`), repeated where there are fewer, (count, C, H, W).

        Raises:
            DataError: what cannot be read.
        """
        spec = self.spec(root)
        split = self.split(spec, None)
        images = torch.cat(
            [images for images, _ in self.batches(spec, split, range(min(count, len(split))), sample=True)]
        )
        return images.repeat(-(-count // len(images)), *[1] * (images.ndim - 1))[:count]


def open_saved(
    path: str | Path, classes: Path | None = None, weights: str | None = None, trust_paths: bool = False
) -> Saved:
    """Loads a model that `dyt train` or `dyt.save` wrote.

    Args:
        path: the model file; where it does not say so itself, run.yaml and classes.txt are looked for beside it. They
            count as your own: the weights file that run.yaml names is opened if the model's file names the same.
        classes: a list of class names, one per line, in place of the model's own.
        weights: where the backbone's weights are now, as for `dyt.load`.
        trust_paths: open whatever the model's file names, as for `dyt.load`.

    Raises:
        CheckpointError: a file that cannot be loaded.
        DataError: a list with another number of classes than the model.
        SpecError: a run.yaml that does not validate.
    """
    path = Path(path)
    model, run = loaded(path, weights, trust_paths), run_of(path)
    config = attached(model.backbone)
    data, elsewhere = None if run is None else run.data, None
    if config is not None:
        known = () if run is None else run.data.model_dump(mode="json").values()
        elsewhere = None if trust_paths else outside({k: v for k, v in (config.data or {}).items() if v not in known})
        data = data_of(config, model.head.task, "" if run is None else run.data.root, path) or data
    listed = classes or path.parent / CLASSES
    names = None if config is None else config.label_names
    origin = str(path) if names is not None else "no list of class names: outputs are numbered from 0"
    if classes is not None or (names is None and listed.is_file()):
        names = tuple(line.strip() for line in read_lines(listed) if line.strip())
        if len(names) != model.num_classes:
            raise DataError(f"'{listed}' has {len(names)} class names, the model {model.num_classes} outputs")
        origin = str(listed)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None
    return Saved(model.to(device), data, names, origin, device, elsewhere and f"'{path}' says that its {elsewhere}")


def loaded(path: str | Path, weights: str | None = None, trust_paths: bool = False) -> DynamicModel:
    """`dyt.load`, which opens what the file names if a run.yaml beside it, which counts as your own, names the same.

    Raises:
        CheckpointError, WeightsError: as `dyt.load`.
        SpecError: a run.yaml that does not validate.
    """
    run = None if trust_paths or weights is not None else run_of(Path(path))
    own = () if run is None else (run.model.backbone.weights, run.model.backbone.name)
    return load(path, weights=weights, trust_paths=trust_paths or own)
