"""The parts of one fine-tuning step, run one after another: which one it is, and what each takes from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dyt.errors import DyTError
from dyt.model.dynamic import DynamicModel
from dyt.objective.joint import Sums, Whole, joined


@dataclass(frozen=True, eq=False)
class Turn:
    """One forward: a part of a step, or as it is by default the whole of it.

    Attributes:
        whole: the sums of the step; None where they are those of this forward, or where no term needs them.
        parts: how many the step has.
        before, images: how many images the parts before it have, and all of them; 0 and None for a whole step.
        values: what each part's sites gave for their thresholds; None for a whole step, which keeps nothing.
    """

    whole: Whole | None = None
    parts: int = 1
    before: int = 0
    images: int | None = None
    values: list[Sequence[Tensor]] | None = None

    def complete(self, own: int, share: float) -> tuple[int, float]:
        """How many of its `own` images the complete pass is run on, the step's first ones, and what its terms weigh.

        They are means over this part's images, and the mean over the parts is to be that over the step's.
        """
        if self.images is None or share == 1:
            return max(round(share * own), 1), 1.0
        wanted = max(round(share * self.images), 1)
        count = min(max(wanted - self.before, 0), own)
        return count, self.parts * count / wanted


ALONE = Turn()
"""A step that is one part."""


class Turns:
    """The state of a step between its parts' forwards; first looked at without gradients, then run.

    Args:
        model: the dynamic model.
        progress, step: of the step, for forwards that leave them out.
        alone: whether it is known to have one part, which takes nothing from others.

    Attributes:
        looking: whether the forwards are those that look.
        values: what each part's sites gave for their thresholds.
    """

    def __init__(self, model: DynamicModel, progress: float | None, step: int | None, alone: bool = False) -> None:
        self.progress, self.step, self.alone, self.looking = progress, step, alone, True
        self.values: list[Sequence[Tensor]] = []
        self._device = next(model.parameters()).device
        self._sizes: list[int] = []
        self._noise: list[tuple[Tensor, Tensor | None]] = []
        self._sums: list[Sums] = []
        self._whole: Whole | None = None
        self._done = 0

    def look(self, images: Any, find: Callable[[], Sums] | None) -> None:
        """Takes the next part's sums, from a pass that `find` runs; None where no term needs them.

        Raises:
            DyTError: it has another number of images than the first one.
        """
        size = image_count(images)
        if self._sizes and size != self._sizes[0]:
            raise DyTError(
                f"accumulating: parts of {self._sizes[0]} and {size} images; the step's loss is the mean over its "
                f"parts, so give parts of equal size"
            )
        self._sizes.append(size)
        if find is not None:
            self._noise.append(random_state(self._device))
            self._sums.append(find())

    def begin(self) -> None:
        """All parts were looked at.

        Raises:
            DyTError: there are none.
        """
        if not self._sizes:
            raise DyTError("accumulating: no parts were given")
        self.looking = False
        self._whole = joined(self._sums) if self._sums else None

    @contextmanager
    def turn(self, images: Any) -> Iterator[Turn]:
        """The next part's forward, with the noise that was drawn when it was looked at.

        Raises:
            DyTError: all parts have been run, or these are not as many images as when it was looked at.
        """
        number, sizes = self._done, self._sizes
        if number == len(sizes):
            raise DyTError(f"accumulating: a forward more than the {len(sizes)} parts that were given")
        if image_count(images) != sizes[number]:
            raise DyTError(
                f"accumulating: part {number} has {image_count(images)} images, and had {sizes[number]} when given"
            )
        self._done += 1
        turn = Turn(self._whole, len(sizes), sum(sizes[:number]), sum(sizes), self.values)
        if not self._noise:
            yield turn
            return
        with replayed(self._noise[number], self._device):
            yield turn

    def end(self) -> None:
        """All parts were run.

        Raises:
            DyTError: they were not.
        """
        if self._done < len(self._sizes):
            raise DyTError(
                f"accumulating: {self._done} of the {len(self._sizes)} parts were run; run each of them once"
            )


def image_count(images: Any) -> int:
    """Of a batch, or of a mapping of tensors, which NaFlexViT takes."""
    return len(next(iter(images.values()))) if isinstance(images, Mapping) else len(images)


def random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Of torch's default generators of the CPU and of the device."""
    own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    return torch.get_rng_state(), own


@contextmanager
def replayed(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """The generators at that state inside, and as they were afterwards."""
    before = random_state(device)
    _put(state, device)
    try:
        yield
    finally:
        _put(before, device)


def _put(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1], device)


@contextmanager
def uncounted(model: DynamicModel) -> Iterator[None]:
    """Batch norms in train mode take the forwards inside into no statistics that they keep."""
    kept = [
        (buffer, buffer.clone())
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training
        for buffer in module.buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)
