"""What a dynamic model is made of, as those see it who read its tensors; and which of them are whose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from dyt.config.spec import DyTSpec
from dyt.heads import Head
from dyt.model.site import Site
from dyt.model.token_state import TokenReduction
from dyt.tuners.base import Tuner


class Composed(Protocol):
    """The parts of a `DynamicModel`, which this floor does not know."""

    backbone: Any
    head: Head
    spec: DyTSpec
    tuner: Tuner | None

    @property
    def sites(self) -> tuple[Site, ...]:
        """The dispatched branches, in forward order."""

    @property
    def reductions(self) -> tuple[TokenReduction, ...]:
        """What each block does about the number of tokens; none without a reducer."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """torch's."""


def classifiers(backbone: nn.Module) -> tuple[nn.Module, ...]:
    """The classifier modules that have parameters: none, one, or two for distilled models."""
    found = backbone.get_classifier()  # type: ignore[operator]
    found = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    return tuple(head for head in found if isinstance(head, nn.Module) and any(True for _ in head.parameters()))


def head_keys(backbone: nn.Module) -> set[str]:
    """State-dict names of the classifiers' parameters."""
    own = {id(p) for head in classifiers(backbone) for p in head.parameters()}
    return {name for name, p in backbone.named_parameters() if id(p) in own}


def tuned_keys(backbone: nn.Module, tuner: Tuner | None) -> set[str]:
    """Names of the backbone's parameters that the tuner trains: none of our sites, none of the classifiers."""
    if tuner is None:
        return set()
    ours = [*classifiers(backbone), *(module for module in backbone.modules() if isinstance(module, Site))]
    aside = {id(p) for module in ours for p in module.parameters()}
    return {name for name, p in backbone.named_parameters() if id(p) not in aside and tuner.trains(name)}


def frozen_norms(backbone: nn.Module, spec: DyTSpec) -> list[nn.Module]:
    """The backbone's norms with running statistics that neither `trainable` nor `modules_to_save` thaws."""
    if spec.trainable == "full":
        return []
    ours = {id(m) for part in backbone.modules() if isinstance(part, (Site, TokenReduction)) for m in part.modules()}
    thawed = {id(m) for name in spec.modules_to_save for m in _at(backbone, name)}
    return [
        module
        for module in backbone.modules()
        if isinstance(module, _NormBase) and module.track_running_stats and id(module) not in ours | thawed
    ]


def _at(backbone: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules of that path; none where it is a parameter's."""
    return (module for path, module in backbone.named_modules() if path == name or path.startswith(f"{name}."))


def start_head(backbone: nn.Module) -> None:
    """Makes the classifiers trainable and starts them as the released code does: truncated normal 0.01, zero bias."""
    for head in classifiers(backbone):
        head.requires_grad_(True)
        for name, parameter in head.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:  # the scale of a norm inside a head stays
                nn.init.trunc_normal_(parameter, std=0.01)
