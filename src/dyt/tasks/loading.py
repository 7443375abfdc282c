"""Split -> batches of tensors: transforms, the cache, and loaders whose every sample is a pure function of its seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from timm.data import create_transform  # type: ignore[attr-defined]
from timm.data.transforms import ResizeKeepRatio
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import InterpolationMode, v2

from dyt.errors import DyTError
from dyt.tasks.bands import Picture
from dyt.tasks.base import Examples
from dyt.tasks.data import DataSpec
from dyt.tasks.layouts import Split
from dyt.tasks.preparation import Preparation
from dyt.tasks.processes import deaf, ended, started

CACHE_LIMIT = 2 * 2**30
"""Bytes of decoded images that a split may take in memory when `cache` is not given."""


def transform(spec: DataSpec, preparation: Preparation, training: bool) -> Callable[[Picture], Tensor]:
    """Image of C channels -> (C, H, W), uint8, or float32 normalised (`timm`)."""
    size, how = preparation.size, InterpolationMode(spec.interpolation)
    made: Callable[[Picture], Tensor]
    if spec.augment == "none":
        made = v2.Compose([v2.Resize(size, how), v2.PILToTensor()])
    elif spec.augment == "crop" and training:
        aspect = size[1] / size[0]
        crop = v2.RandomResizedCrop(size, ratio=(3 / 4 * aspect, 4 / 3 * aspect), interpolation=how)
        made = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])
    elif spec.augment == "crop":
        around = [round(side * 8 / 7) for side in size]
        resize: Any = v2.Resize(around[0], how)
        if size[0] != size[1]:
            resize = ResizeKeepRatio(around, 0.0, spec.interpolation)  # type: ignore[no-untyped-call]
        made = v2.Compose([resize, v2.CenterCrop(size), v2.PILToTensor()])
    else:
        chosen: dict[str, Any] = {
            "interpolation": spec.interpolation,
            "mean": preparation.mean,
            "std": preparation.std,
        }
        if training:
            chosen |= {"auto_augment": spec.auto_augment, "re_prob": spec.random_erasing}
            chosen |= {"color_jitter": spec.color_jitter}
        made = create_transform(size, is_training=training, **chosen)
    return made


class Images(Examples):
    """A split of labelled images through the spec's transform, or another one.

    Args:
        split: the images.
        spec: says `augment` and `cache`.
        preparation: what the backbone wants of them.
        training: whether they are prepared for training.
        prepare: image -> (C, H, W); by default what `transform` makes of a DataSpec.
    """

    def __init__(
        self,
        split: Split,
        spec: Any,
        preparation: Preparation,
        training: bool,
        prepare: Callable[[Picture], Tensor] | None = None,
    ) -> None:
        super().__init__(split)
        self.spec, self.size, self.channels = spec, preparation.size, preparation.channels
        self.prepare = transform(spec, preparation, training) if prepare is None else prepare
        self.store: Tensor | None = None

    def example(self, position: int, seed: int) -> tuple[Tensor, int | Tensor]:
        """The image, and its label; of a split with several labels an image 1 at each, (K,) float32."""
        image = self.sample(position, seed) if self.store is None else self.store[position]
        label = self.split.labels[position]
        if not isinstance(label, tuple):
            return image, int(label)
        return image, torch.zeros(self.split.count).index_fill_(0, torch.tensor(label, dtype=torch.int64), 1.0)

    @property
    def fixed(self) -> bool:
        return bool(self.spec.augment == "none")

    @property
    def cached(self) -> bool:
        return self.store is not None

    def worth_caching(self) -> bool:
        """As the spec says, else when images are not augmented and fit the limit."""
        if self.spec.augment != "none":
            return False
        fits = len(self) * self.channels * self.size[0] * self.size[1] <= CACHE_LIMIT
        return fits if self.spec.cache is None else bool(self.spec.cache)

    def sample(self, i: int, seed: int = 0) -> Tensor:
        """(C, H, W)."""
        image = self.split.image(i, self.channels)
        with seeded(seed):
            return self.prepare(image)

    def fill(self, threads: int, advance: Callable[[], None] = lambda: None) -> None:
        """Decodes everything into memory, so that an image that cannot be read is known before training begins."""
        first = self.prepare(self.split.image(0, self.channels))
        store = torch.empty((len(self), *first.shape), dtype=first.dtype)

        def put(i: int) -> None:
            store[i] = self.prepare(self.split.image(i, self.channels))

        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for _ in pool.map(put, range(len(self))):
                advance()
        self.store = store


def loader(examples: Examples, batches: Sequence[list[tuple[int, int]]], workers: int) -> Generator[Any]:
    """Batches of (inputs, targets) for lists of (position, seed); cached examples need no worker.

    Raises:
        DyTError: while it is gone through, where an example cannot be used: the same error with and without workers.
    """
    made: DataLoader[Any] = DataLoader(
        _Batches(examples),
        batch_size=None,
        sampler=list(batches),
        num_workers=0 if examples.cached else workers,
        worker_init_fn=deaf,
    )
    found = _raised(*started(lambda: iter(made)))
    next(found)  # within `ended`, so that closing it ends the processes
    return found


class _Batches(Dataset[Any]):
    """Batches by their lists of (position, seed). An error of the user's data is an answer here: torch would make its
    message the whole traceback of the loader process.
    """

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, keys: list[tuple[int, int]]) -> Any:
        try:
            return (self.examples.collate or default_collate)([self.examples[key] for key in keys])
        except DyTError as error:
            return error


def _raised(batches: Iterator[Any], processes: Sequence[BaseProcess]) -> Generator[Any]:
    """None once, and then the batches."""
    with ended(processes):
        yield None
        for batch in batches:
            if isinstance(batch, DyTError):
                raise batch
            yield batch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's CPU generators inside and leaves them as they were: transforms use all."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
