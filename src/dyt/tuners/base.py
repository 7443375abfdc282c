"""What every tuner is: a way of tuning the frozen backbone itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from dyt.config.base import ComponentSpec
from dyt.families.base import Family
from dyt.registry import tuners


class TunerSpec(ComponentSpec):
    """Base of the tuners' specs."""


class Tuner(ABC):
    """Base of tuners: subclass, set `Spec`, implement the methods, register with `@dyt.registry.tuners(name)`.

    A tuner is frozen data and speaks of backbones that it is given; the modules and parameters that it adds are the
    backbone's own, so that deepcopy, `.to()` and DistributedDataParallel see them where they run. A parameter's name is
    its name in `backbone.state_dict()`.

    Args:
        spec: the component's own spec.
    """

    Spec: ClassVar[type[TunerSpec]] = TunerSpec
    starts_plain: ClassVar[bool] = True
    """Whether a freshly tuned backbone computes what the plain one does; False where what is added takes part from the
    start."""

    def __init__(self, spec: TunerSpec) -> None:
        self.prompts = 0
        """Tokens that stand between prefix and patches inside the blocks: always active, and in no rate."""

    @abstractmethod
    def refusal(self, backbone: nn.Module, family: Family) -> str | None:
        """Why this plain backbone cannot be tuned so, or None when it can; asked before anything is changed."""

    @abstractmethod
    def apply(self, backbone: nn.Module, family: Family) -> None:
        """Changes the backbone in place; its blocks are dynamic by then. What to train is left to `trains`."""

    @abstractmethod
    def trains(self, name: str) -> bool:
        """Whether the backbone's parameter of this name is trained, and so stored; our sites and the head aside."""

    def plain(self, name: str) -> str | None:
        """The name that a tensor of the tuned backbone has in the plain one; None when the tuner has added it."""
        return name

    def stored(self, name: str) -> str:
        """The name under which a trained tensor is saved, after `tuner.`."""
        return name

    def intermediates_refusal(self) -> str | None:
        """Why features between the blocks cannot be had, or None when they can."""
        return None

    def merge_refusal(self) -> str | None:
        """Why no plain backbone computes what the tuned one does, or None when `merge` makes one."""
        return "its tuner does not say how a plain backbone would have what it trained"

    def merge(self, backbone: nn.Module) -> None:
        """Makes a tuned backbone plain, with what was trained among its own weights; undoes what `apply` added."""
        raise NotImplementedError


tuners.accepts(Tuner)
