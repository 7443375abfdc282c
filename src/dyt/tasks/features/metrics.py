"""How near an encoder's final tokens are to those of the untouched one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dyt.core import ranks
from dyt.heads.tokens import ImageTokens
from dyt.tasks.base import Measure

ROWS = 1024
"""Images whose neighbours are looked for at once."""


class Fidelity(Measure):
    """Of two encoders' tokens of the same images.

    `image_cosine`: the mean over images of the cosine between what stands for an image in each (its class token, or the
    mean patch token where there is none). `patch_cosine`: the same over all patch tokens. `neighbour_agreement`: the
    share of the images whose nearest other image, by the cosine of what stands for them, is the same in both; None of a
    single image.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums = torch.zeros(4, dtype=torch.float64)  # cosines and number: of images, of patches
        self.own: list[Tensor] = []
        self.other: list[Tensor] = []

    def update(self, outputs: ImageTokens, targets: ImageTokens) -> None:
        images = F.cosine_similarity(outputs.image, targets.image, -1).cpu().double()
        patches = F.cosine_similarity(outputs.patches, targets.patches, -1).cpu().double()
        self.sums += torch.stack([images.sum(), _count(images), patches.sum(), _count(patches)])
        self.own.append(F.normalize(outputs.image, dim=-1).cpu())
        self.other.append(F.normalize(targets.image, dim=-1).cpu())

    def compute(self) -> dict[str, float | None]:
        image, images, patch, patches = ranks.summed(self.sums).tolist()
        own, other = (self._gathered(each) for each in (self.own, self.other))
        return {
            "image_cosine": image / images,
            "patch_cosine": patch / patches if patches else None,
            "neighbour_agreement": agreement(own, other) if len(own) > 1 else None,
        }

    def _gathered(self, rows: list[Tensor]) -> Tensor:
        """(M, C) of all ranks, on the device."""
        mine = torch.cat(rows)
        return ranks.gathered(mine.flatten()).reshape(-1, mine.shape[1]).to(self.device)


def _count(values: Tensor) -> Tensor:
    return torch.tensor(float(values.numel()), dtype=torch.float64)


def agreement(own: Tensor, other: Tensor) -> float:
    """The share of the rows (M, C), of length 1, whose nearest other row is the same in both."""
    return float((neighbours(own) == neighbours(other)).double().mean())


def neighbours(rows: Tensor) -> Tensor:
    """(M,) int64: by row (M, C), of length 1, the position of the nearest other one by cosine, the first of equals."""
    found = []
    for start in range(0, len(rows), ROWS):
        near = rows[start : start + ROWS] @ rows.T
        near[torch.arange(len(near)), torch.arange(start, start + len(near))] = -torch.inf
        found.append(near.argmax(1))
    return torch.cat(found)
