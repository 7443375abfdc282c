"""Base of tuners: a tuner tunes the frozen backbone itself."""

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

    A tuner holds no modules; its methods take the backbone. The modules and parameters that it adds belong to the
    backbone, so that deepcopy, `.to()` and DistributedDataParallel see them where they run. A parameter's name is
    its name in `backbone.state_dict()`.

    Args:
        spec: the component's own spec.
    """

    Spec: ClassVar[type[TunerSpec]] = TunerSpec
    starts_plain: ClassVar[bool] = True
    """Whether the tuned backbone equals the plain one before training; False if its additions take effect at once."""

    def __init__(self, spec: TunerSpec) -> None:
        self.prompts = 0
        """Tokens inserted between prefix and patches inside the blocks: always active, and not counted in the rate."""

    @abstractmethod
    def refusal(self, backbone: nn.Module, family: Family) -> str | None:
        """Why this plain backbone cannot be tuned, or None if it can; called before anything is changed."""

    @abstractmethod
    def apply(self, backbone: nn.Module, family: Family) -> None:
        """Changes the backbone in place, after its blocks became dynamic. `trains` decides what is trained."""

    @abstractmethod
    def trains(self, name: str) -> bool:
        """Whether the backbone's parameter of this name is trained and stored; not called for sites and the head."""

    def plain(self, name: str) -> str | None:
        """The name that a tensor of the tuned backbone has in the plain one; None if the tuner added it."""
        return name

    def stored(self, name: str) -> str:
        """The name under which a trained tensor is saved, after `tuner.`."""
        return name

    def intermediates_refusal(self) -> str | None:
        """Why features between the blocks are not available; None if they are."""
        return None

    def save_refusal(self, backbone: nn.Module) -> str | None:
        """Why a file could not bring this backbone back, for what is in none of its tensors; None when it could."""
        return None

    def merge_refusal(self) -> str | None:
        """Why the tuned backbone cannot be merged into a plain one; None if `merge` does it."""
        return "its tuner does not say how to merge what it trained into a plain backbone"

    def merge(self, backbone: nn.Module) -> None:
        """Merges the trained weights into the backbone's own and removes what `apply` added."""
        raise NotImplementedError


tuners.accepts(Tuner, ComponentSpec)
