"""Split -> batches of tensors: transforms, the cache, and loaders whose every sample is a pure function of its seed."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from dyt.backbone import input_size
from dyt.tasks.data import DataSpec
from dyt.tasks.layouts import Split

CACHE_LIMIT = 2 * 2**30
"""Bytes of decoded images that a split may take in memory when `cache` is not given."""


@dataclass(frozen=True)
class Preparation:
    """What a backbone wants of its images: side in pixels, mean and standard deviation of the three channels."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @staticmethod
    def of(backbone: nn.Module, size: int | None = None) -> Preparation:
        """As timm resolves it; the image size is the model's own where it has one."""
        config: dict[str, Any] = resolve_data_config({}, model=backbone)  # type: ignore[no-untyped-call]
        return Preparation(size or input_size(backbone)[0], tuple(config["mean"]), tuple(config["std"]))

    def normalized(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> float32, (x / 255 - mean) / std; float images are so already."""
        if images.dtype != torch.uint8:
            return images
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (images.float() / 255 - mean) / std


def transform(spec: DataSpec, preparation: Preparation, training: bool) -> Callable[[Image.Image], Tensor]:
    """RGB image -> (3, size, size), uint8, or float32 normalised (`timm`)."""
    size, how = preparation.size, InterpolationMode(spec.interpolation)
    made: Callable[[Image.Image], Tensor]
    if spec.augment == "none":
        made = v2.Compose([v2.Resize((size, size), how), v2.PILToTensor()])
    elif spec.augment == "crop" and training:
        crop = v2.RandomResizedCrop(size, interpolation=how)
        made = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])
    elif spec.augment == "crop":
        made = v2.Compose([v2.Resize(round(size * 8 / 7), how), v2.CenterCrop(size), v2.PILToTensor()])
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


class Images(Dataset[tuple[Tensor, int]]):
    """A split through a transform. Indexed by (position, seed): the seed decides everything random about the sample."""

    def __init__(self, split: Split, prepare: Callable[[Image.Image], Tensor]) -> None:
        self.split, self.prepare = split, prepare
        self.cached: Tensor | None = None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        i, seed = key
        return self.sample(i, seed) if self.cached is None else self.cached[i], self.split.labels[i]

    def sample(self, i: int, seed: int = 0) -> Tensor:
        """(3, size, size)."""
        image = self.split.read(i)
        with seeded(seed):
            return self.prepare(image)

    def fill(self, threads: int, advance: Callable[[], None] = lambda: None) -> None:
        """Decodes everything into memory, so that an image that cannot be read is known before training begins."""
        first = self.prepare(self.split.read(0))
        store = torch.empty((len(self), *first.shape), dtype=first.dtype)

        def put(i: int) -> None:
            store[i] = self.prepare(self.split.read(i))

        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for _ in pool.map(put, range(len(self))):
                advance()
        self.cached = store


def worth_caching(spec: DataSpec, split: Split, size: int) -> bool:
    """Whether to keep the decoded images: as the spec says, else when they are not augmented and fit the limit."""
    if spec.augment != "none":
        return False
    return len(split) * 3 * size * size <= CACHE_LIMIT if spec.cache is None else spec.cache


def loader(images: Images, batches: Sequence[list[tuple[int, int]]], workers: int) -> DataLoader[Any]:
    """Batches of (images, labels) for lists of (position, seed); cached images need no worker."""
    workers = 0 if images.cached is not None else workers
    return DataLoader(images, batch_sampler=list(batches), num_workers=workers, worker_init_fn=_deaf)


def _deaf(worker: int) -> None:
    """Ctrl-C and termination reach the whole process group; the main process alone decides what then happens."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


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
