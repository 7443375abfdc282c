"""Whose the tensors of a model are: the plain backbone's under their plain names, and those that a file holds."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from dyt.errors import SpecError, nearest
from dyt.model.parts import Composed, head_keys, tuned_keys
from dyt.model.site import Site
from dyt.model.token_state import TokenReduction
from dyt.tuners.base import Tuner

_SHELLS = re.compile(r"(_orig_mod|_checkpoint_wrapped_module)\.")
"""What torch's wrappers of a single module put into names: `torch.compile`, activation checkpointing."""


def bare(name: str) -> str:
    """A tensor's or a module's name without what torch's wrappers of a single module have put into it."""
    return _SHELLS.sub("", f"{name}.")[:-1]


def plain_state(backbone: nn.Module, tuner: Tuner | None = None) -> dict[str, Tensor]:
    """The backbone's state dict without what is ours, or the tuner's that it was tuned by: timm's keys alone."""
    ours = {f"{name}." for name, module in backbone.named_modules() if isinstance(module, (Site, TokenReduction))}
    named = backbone.state_dict(keep_vars=True).items()
    theirs = {bare(k): v for k, v in named if not k.startswith(tuple(ours) or ("\0",))}
    if tuner is None:
        return theirs
    return {plain: v for k, v in theirs.items() if (plain := tuner.plain(k)) is not None}


def aside(backbone: nn.Module, tuner: Tuner | None = None, modules: Sequence[str] = ()) -> set[str]:
    """The plain names of the backbone's tensors that are trained: head, what the tuner trains, `modules_to_save`."""
    apart = {bare(name) for name in head_keys(backbone) | tuned_keys(backbone, tuner)}
    return apart | {name for name in plain_state(backbone, tuner) if within(name, modules)}


def within(name: str, modules: Sequence[str]) -> bool:
    """Whether a tensor or module of this name is, or is in, one of these modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def check_modules(backbone: nn.Module, modules: Sequence[str]) -> None:
    """Refuses names for `modules_to_save` that are no module or parameter of this plain backbone.

    Raises:
        SpecError: with the nearest names.
    """
    tensors = backbone.state_dict(keep_vars=True)
    known = {name for name, _ in backbone.named_modules() if name} | set(tensors)
    for module in modules:
        if "sites" in module.split("."):
            raise SpecError(
                f"modules_to_save: '{module}' is of a site, and sites (dispatchers, adapters, thresholds) are trained "
                f"and stored anyway; leave it out"
            )
        if module not in known:
            parent, top = module.rpartition(".")[0], {name.partition(".")[0] for name in known}
            beside = {name for name in known if name.rpartition(".")[0] == parent}
            raise SpecError(
                f"modules_to_save: the backbone has no module or parameter '{module}'; {nearest(module, beside or top)}"
            )
        if not any(within(name, [module]) for name in tensors):
            raise SpecError(f"modules_to_save: '{module}' has no tensors that could be trained; leave it out")


def trainable(model: Composed) -> list[nn.Parameter]:
    """The parameters of the backbone that `modules_to_save` asks to be trained."""
    plain, modules = plain_state(model.backbone, model.tuner), model.spec.modules_to_save
    return [t for name, t in plain.items() if within(name, modules) and isinstance(t, nn.Parameter)]


def stored(model: Composed, whole: bool | None = None, also: Collection[str] = ()) -> dict[str, Tensor]:
    """Live tensors by stored key: sites, reducers, what the tuner trains, the head, and what else of the backbone.

    Args:
        model: the dynamic model.
        whole: whether the whole backbone is among them; None as the spec says. Without it those of the spec's
            `modules_to_save` are.
        also: plain names of further tensors of the backbone.
    """
    whole = model.spec.trainable == "full" if whole is None else whole
    sites = {f"sites.{site.name}.{k}": v for site in model.sites for k, v in site.state_dict(keep_vars=True).items()}
    for reduction in model.reductions:
        sites |= {f"reducers.{reduction.name}.{k}": v for k, v in reduction.reducer_state().items()}
    head, tuner, tuned = {bare(k) for k in head_keys(model.backbone)}, model.tuner, {}
    if tuner is not None:
        parameters = dict(model.backbone.named_parameters())
        tuned = {f"tuner.{tuner.stored(bare(k))}": parameters[k] for k in sorted(tuned_keys(model.backbone, tuner))}
    tuner_trains = {id(t) for t in tuned.values()}
    plain = {
        f"backbone.{k}": v
        for k, v in plain_state(model.backbone, tuner).items()
        if whole or k in head or k in also or (within(k, model.spec.modules_to_save) and id(v) not in tuner_trains)
    }
    behind = {f"head.{k}": v for k, v in model.head.state_dict(keep_vars=True).items()}
    return {bare(k): v for k, v in (sites | tuned | behind).items()} | plain


def put(model: Composed, tensors: Mapping[str, Tensor], whole: bool | None = None, also: Collection[str] = ()) -> None:
    """Copies tensors by stored key into the model; all of `stored(model, whole, also)` must be there."""
    with torch.no_grad():
        for key, target in stored(model, whole, also).items():
            target.copy_(tensors[key])
