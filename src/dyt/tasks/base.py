"""What every task is: its data as examples and batches, how a model is run on them, and what is measured of it.

A head says what a model gives and is trained for; a task says what it is given and what counts. They meet in
`Head.task`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dyt.assembly.image_size import check_size
from dyt.model.dynamic import DynamicModel
from dyt.tasks.data import Data
from dyt.tasks.layouts import Split
from dyt.tasks.preparation import Preparation
from dyt.tasks.sizes import pair


class Measure(ABC):
    """Metrics over a split. With several processes each updates its own, and `compute` is of all."""

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Takes a batch's outputs in."""

    @abstractmethod
    def compute(self) -> Mapping[str, float | None]:
        """The metrics by name, fractions where they are such, None of what the split has nothing to measure of; the
        first is the task's own.
        """


class Examples(Dataset[tuple[Any, Any]]):
    """A split, ready for a loader. Indexed by (position, seed): the seed decides everything random about the example.

    Subclasses implement `example`; what it returns of a position and a seed must depend on nothing else.
    """

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, Any]:
        return self.example(*key)

    def example(self, position: int, seed: int) -> tuple[Any, Any]:
        """(input, target): the input a tensor, uint8 as decoded or float as the model wants it."""
        raise NotImplementedError

    collate: Callable[[Sequence[tuple[Any, Any]]], tuple[Any, Any]] | None = None
    """Examples -> (inputs, targets) of a batch; None for torch's own."""

    @property
    def fixed(self) -> bool:
        """Whether an example's input is the same whatever the seed."""
        return False

    @property
    def cached(self) -> bool:
        """Whether the examples are in memory, so that no loader process is needed."""
        return False

    def worth_caching(self) -> bool:
        """Whether `fill` is allowed, and worth its memory for a split that is gone through more than once."""
        return False

    def fill(self, threads: int, advance: Callable[[], None] = lambda: None) -> None:
        """Decodes everything into memory."""
        raise NotImplementedError


@dataclass(frozen=True)
class Answer:
    """What a model says of a file.

    Attributes:
        line: in words.
        data: the same and more as plain data, which JSON can hold; paths of the pictures among it.
    """

    line: str
    data: Mapping[str, Any]


class Task(ABC):
    """Base of tasks; an instance has no state."""

    name: ClassVar[str]
    Spec: ClassVar[type[Any]]
    """Of its data, with at least `task`, `root`, `size` and `workers`."""
    head: ClassVar[str]
    """The head of a model for which none is named."""
    unit: ClassVar[str] = "image"
    """What one input is called in tables."""
    recipe: ClassVar[str] = "default"
    """The recipe of a run for which none is named."""
    predicts: ClassVar[bool] = True
    """Whether a model of it has something to say of a file (`dyt predict`)."""
    draws: ClassVar[bool] = False
    """Whether its answers are pictures, made by `draw`; words alone where not."""
    batch: ClassVar[int] = 64
    """Examples of a batch at inference."""

    def check(self, model: DynamicModel, spec: Any) -> None:
        """Refuses, before anything is trained, data that this model cannot be given: by default images of another size.

        Raises:
            DyTError: what does not fit, in one line.
        """
        if spec.size is not None:
            check_size(model.backbone, pair(spec.size))

    @abstractmethod
    def open(self, spec: Any) -> Data:
        """Lists both splits and checks files and labels, without decoding.

        Raises:
            DataError: what was found and what is expected, in one line.
        """

    @abstractmethod
    def open_split(self, spec: Any, split: str | None, classes: Sequence[str]) -> Split:
        """One split, its labels as positions among these classes; `split` None is the test split.

        Raises:
            DataError: what was found and what is expected, in one line.
        """

    @abstractmethod
    def training_split(self, spec: Any) -> str:
        """The name of the training split."""

    def named(self, spec: Any, split: str | None) -> tuple[str, ...] | None:
        """The names of the classes, where the split alone tells them; None where it does not."""
        return None

    @abstractmethod
    def examples(self, spec: Any, split: Split, preparation: Preparation, training: bool) -> Examples:
        """The split's examples, prepared as for training or as at inference."""

    def sample(self, spec: Any, split: Split, preparation: Preparation) -> Examples:
        """Examples of one size, as at inference or near it, to look at what is active in them."""
        return self.examples(spec, split, preparation, training=False)

    @abstractmethod
    def measure(self, classes: Sequence[str], device: torch.device) -> Measure:
        """Metrics of a model that tells these classes apart."""

    def infer(self, model: DynamicModel, inputs: Any, spec: Any) -> Any:
        """The outputs for a batch at inference: one forward, or several that are put together (crops, views)."""
        return model(inputs)

    def reference(self, model: DynamicModel, inputs: Any, targets: Any, spec: Any) -> Any:
        """What a batch's outputs are measured by: its targets, or what the task makes of the inputs in their place."""
        return targets

    def to(self, targets: Any, device: torch.device) -> Any:
        """A batch's targets on a device."""
        return moved(targets, device)

    def draw(
        self,
        model: DynamicModel,
        spec: Any,
        files: Sequence[Path],
        classes: Sequence[str],
        out: Path,
        top: int = 1,
    ) -> list[Answer]:
        """Predicts files, draws the answers as pictures in the directory `out`; an answer for each.

        Args:
            top: how many classes to name, most probable first, for a task with one label per input.
        """
        raise NotImplementedError(f"the answers of {self.name} are words alone")


def stems(files: Sequence[Path]) -> list[str]:
    """What the pictures of files are called: each file's stem, with a number behind it where that was there before."""
    names: list[str] = []
    for file in files:
        name, k = file.stem, 1
        while name in names:
            k += 1
            name = f"{file.stem}-{k}"
        names.append(name)
    return names


def moved(value: Any, device: torch.device) -> Any:
    """Every tensor in nested lists, tuples and mappings on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return type(value)({name: moved(each, device) for name, each in value.items()})  # type: ignore[call-arg]
    if isinstance(value, (list, tuple)):
        return type(value)(moved(each, device) for each in value)
    return value
