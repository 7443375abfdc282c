"""What goes with what: every rule by which a spec is refused on a backbone, asked in one place.

A component says its own reasons (`Family.refusal`, `Tuner.refusal`, `Head.refusal` and so on); here they are put
together, with those that are between two components. A reason is a phrase in words, or None.
"""

from __future__ import annotations

from torch import nn

from dyt import registry
from dyt.assembly.allocation import dynamic_paths
from dyt.assembly.window_attention import combination_refusal, window_refusal
from dyt.config.spec import DyTSpec
from dyt.core.interop import remedy
from dyt.dispatchers.base import Dispatcher
from dyt.errors import SpecError, UnsupportedError
from dyt.families import Family, find, sources
from dyt.heads import Head
from dyt.model.block import DynamicBlock
from dyt.model.dynamic import DynamicModel
from dyt.model.tensors import check_modules
from dyt.reducers import Reducer
from dyt.tuners.base import Tuner


def is_dynamic(backbone: nn.Module) -> bool:
    """Whether a model is dynamic already, whole or its backbone."""
    return isinstance(backbone, DynamicModel) or any(isinstance(m, DynamicBlock) for m in backbone.modules())


def known_family(backbone: nn.Module) -> Family:
    """The family that knows the blocks of a backbone.

    Raises:
        UnsupportedError: none does.
    """
    found = find(backbone)
    if found is None:
        raise UnsupportedError(f"{unknown_blocks(backbone)}; families: {', '.join(registry.families.names())}")
    return found[1]


def unknown_blocks(backbone: nn.Module) -> str:
    """That no family knows them, with the names of their classes."""
    blocks = getattr(backbone, "blocks", None) or [m for m in backbone.modules() if type(m).__name__.endswith("Block")]
    classes = {type(block).__name__ for block in blocks}
    inside = f" with blocks {', '.join(sorted(classes))}" if classes else ""
    return f"no family knows the blocks of {type(backbone).__name__}{inside}"


def check_given(backbone: nn.Module, spec: DyTSpec) -> None:
    """Refuses a backbone that a user hands over and that the spec is not for.

    Raises:
        UnsupportedError: it is dynamic already, or no family knows its blocks.
        SpecError: its head has another number of classes.
    """
    if is_dynamic(backbone):
        raise UnsupportedError("backbone is already dynamic; give a plain timm model (dyt.unwrap makes it one again)")
    known_family(backbone)
    given = getattr(backbone, "num_classes", None)
    if given != spec.head.classifier:
        raise SpecError(
            f"head.num_classes is {spec.head.classifier} but the given backbone has {given}; change the spec, or "
            f"{remedy(backbone, spec.head.classifier)}"
        )


def refusal(family: Family, backbone: nn.Module, variant: type[DynamicBlock]) -> str | None:
    """Why this family cannot offer this variant on this backbone; None when it can."""
    reasons = (family.refusal(backbone, branch) for branch in variant.dispatched)
    own = next((reason for reason in reasons if reason is not None), None)
    return own if own is not None else sources.refusal(family, backbone)


def check(
    spec: DyTSpec,
    backbone: nn.Module,
    family: Family,
    variant: type[DynamicBlock],
    dispatcher: type[Dispatcher],
    reducer: type[Reducer] | None,
    tuner: Tuner | None,
    head: type[Head],
) -> None:
    """Refuses, in one line, what of a spec does not go with the backbone or with the rest of the spec.

    Raises:
        UnsupportedError: the first reason, with the name of the field.
        SpecError: a module in `modules_to_save` that the backbone does not have.
    """
    given = type(backbone).__name__
    if not callable(getattr(backbone, "get_classifier", None)):
        _refuse(f"{given} is not available", "it has no get_classifier, by which timm's models tell their head")
    _refuse(f"variant '{spec.variant.type}' is not available for {given}", refusal(family, backbone, variant))
    _refuse("backbone.window_size is not available here", combination_refusal(spec, variant, dispatcher))
    if dispatcher.needs_attention:
        reason = family.attention_refusal(backbone)
        _refuse(f"dispatcher '{spec.dispatcher.type}' is not available for {given}", reason)
    if spec.stand_in is not None and not dispatcher.skips:
        reason = f"dispatcher '{spec.dispatcher.type}' skips no token, so that it would never be used; leave it out"
        _refuse(f"stand_in '{spec.stand_in.type}' is not available", reason)
    bare = [branch for branch in variant.dispatched if branch not in family.norms]
    if bare and "normalised" in {getattr(each, "input", "block") for each in (spec.adapter, spec.stand_in)}:
        reason = f"its {bare[0]} branch does not start with a norm of its own; use input: block"
        _refuse(f"adapter.input: normalised is not available for {given}", reason)
    if tuner is not None and spec.tuner is not None:
        reason = _tuner_refusal(spec, backbone, family, dispatcher, tuner)
        _refuse(f"tuner '{spec.tuner.type}' is not available for {given}", reason)
    if reducer is not None and spec.reducer is not None:
        reason = _reducer_refusal(spec, backbone, family, variant, dispatcher, reducer)
        _refuse(f"reducer '{spec.reducer.type}' is not available for {given}", reason)
    reason = head.refusal(spec.head, backbone, family)
    if reason is None and head.reads_grid:
        reason = _grid_refusal(spec, tuner)
    _refuse(f"head '{spec.head.type}' is not available for {given}", reason)
    check_modules(backbone, spec.modules_to_save)
    if spec.backbone.window_size is not None:
        reason = window_refusal(spec.backbone, backbone, family)
        _refuse(f"backbone.window_size is not available for {given}", reason)


def _refuse(what: str, reason: str | None) -> None:
    if reason is not None:
        raise UnsupportedError(f"{what}: {reason}")


def _tuner_refusal(
    spec: DyTSpec, backbone: nn.Module, family: Family, dispatcher: type[Dispatcher], tuner: Tuner
) -> str | None:
    """What of the backbone's family, the dispatcher or the reducer a tuner does not go with."""
    reason = tuner.refusal(backbone, family)
    if reason is None and tuner.prompts and dispatcher.needs_attention:
        reason = f"dispatcher '{spec.dispatcher.type}' ranks by attention among the backbone's own tokens"
    if reason is None and tuner.prompts and spec.reducer is not None:
        reason = f"reducer '{spec.reducer.type}' would take its tokens for patches"
    return reason


def _reducer_refusal(
    spec: DyTSpec,
    backbone: nn.Module,
    family: Family,
    variant: type[DynamicBlock],
    dispatcher: type[Dispatcher],
    reducer: type[Reducer],
) -> str | None:
    """What a reducer asks of the backbone, its family and the rest of the spec and does not get."""
    if not variant.reduces:
        return f"in variant '{spec.variant.type}' not every token takes part in the attention; use variant: mlp"
    if len(dynamic_paths(family.blocks(backbone), spec.variant)) != len(family.blocks(backbone)):
        return "it goes through all blocks, and variant.layers leaves some of them plain; leave variant.layers out"
    if dispatcher.needs_attention:
        return f"dispatcher '{spec.dispatcher.type}' ranks the tokens that entered a block, of which it leaves fewer"
    if family.reads_patches(backbone) and not reducer.restores:
        return "its head reads the patch tokens, some of which are dropped; use a class token's head, or reducer: tome"
    return (
        family.reduction_refusal(backbone)
        or (family.keys_refusal(backbone) if reducer.needs_keys else None)
        or (family.attention_refusal(backbone) if reducer.needs_attention else None)
    )


def _grid_refusal(spec: DyTSpec, tuner: Tuner | None) -> str | None:
    """Why a head cannot read one token for each patch of every layer."""
    if spec.reducer is not None:
        return f"it reads one token for each patch, which reducer '{spec.reducer.type}' does not leave"
    return None if tuner is None else tuner.intermediates_refusal()
