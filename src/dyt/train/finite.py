"""Noticing a loss that is not finite, without having each step wait for the accelerator."""

from __future__ import annotations

import torch
from torch import Tensor

from dyt.core.ranks import largest
from dyt.train.keeper import Keeper
from dyt.train.state import RunError

NEVER = 2**62
STOP, BROKEN = 1.0, 2.0


class LossCheck:
    """Keeps the first step whose loss was not finite on the device, until it is asked for.

    With fp16 a step that the gradient scaler skips, since its scaled gradients are infinite, has a finite loss.

    Args:
        device: the model's; reading a number off the CPU costs nothing.
        world: number of processes.
        keeper: knows what is kept of the run.
    """

    def __init__(self, device: torch.device, world: int, keeper: Keeper) -> None:
        self.cheap, self.world, self.keeper = device.type == "cpu", world, keeper
        self._first = torch.full((), NEVER, dtype=torch.int64, device=device)

    def add(self, loss: Tensor, step: int) -> None:
        """Takes the loss () of a part of a step, whose number is counted from 1."""
        finite = torch.isfinite(loss.detach())
        self._first = torch.where(finite, self._first, self._first.clamp_max(step))

    def stops(self, step: int, noted: bool, read: bool) -> bool:
        """Whether any process was told to stop; all must ask, after each step.

        Args:
            step: that is done.
            noted: whether this one was told.
            read: whether a process that is alone looks at its losses now, which waits for an accelerator. Several do
                so at each step, since asking one another waits anyway.

        Raises:
            RunError: a loss that is not finite, on any process; all raise.
        """
        if self.world == 1:
            if read or self.cheap:
                self.check()
            return noted
        found = largest(STOP * noted if self._found() is None else BROKEN)
        if found == BROKEN:
            raise self._error(step)
        return found == STOP

    def check(self) -> None:
        """Looks at the losses of this process.

        Raises:
            RunError: one that is not finite.
        """
        first = self._found()
        if first is not None:
            raise self._error(first)

    def _found(self) -> int | None:
        first = int(self._first)
        return None if first == NEVER else first

    def _error(self, step: int) -> RunError:
        length = self.keeper.length
        return RunError(
            f"the loss is not finite at step {step} of {length.steps} (epoch {(step - 1) // length.per_epoch + 1}); "
            f"{self.keeper.kept()}; {self.keeper.remedy()}"
        )
