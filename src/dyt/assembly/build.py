"""spec -> model. Imports no concrete component: everything is asked of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from dyt import families, registry
from dyt.assembly import backbone as backbones
from dyt.assembly.allocation import capacities_of, dynamic_paths, rates_of
from dyt.assembly.window_attention import combination_refusal
from dyt.config.files import read
from dyt.config.presets import preset, presets
from dyt.config.spec import DyTSpec, parse
from dyt.core import context
from dyt.core import interop as bridges
from dyt.core.context import BuildContext
from dyt.dispatchers.base import Dispatcher
from dyt.errors import SpecError, UnsupportedError, nearest
from dyt.model.block import DynamicBlock
from dyt.model.dynamic import DynamicModel
from dyt.model.origin import Origin
from dyt.model.parts import classifiers, start_head, tuned_keys
from dyt.model.site import Site
from dyt.model.tensors import check_modules, trainable
from dyt.model.timm_surface import checkpoint_blocks
from dyt.model.token_state import TokenReduction, TokenState
from dyt.reducers import Reducer, ReducerSpec
from dyt.tuners.base import Tuner

DEFAULT_EXECUTORS = ("masked", "sparse")
"""(in train mode, in eval mode)."""


def resolve(spec: DyTSpec | Mapping[str, Any] | str | Path) -> DyTSpec:
    """A spec from what a user may give: a DyTSpec, a dict, a path to YAML or JSON, or the name of a preset.

    Raises:
        SpecError: one line that names the field, what was given and what is allowed.
    """
    if isinstance(spec, DyTSpec):
        return spec
    if isinstance(spec, Mapping):
        return parse(DyTSpec, dict(spec))
    if isinstance(spec, str) and spec in presets():
        return preset(spec)
    if isinstance(spec, (str, Path)):
        path = Path(spec)
        if path.suffix in {".yaml", ".yml", ".json"}:
            return parse(DyTSpec, read(path))
        raise SpecError(
            f"'{spec}' is neither a .yaml, .yml or .json file nor a preset; {nearest(str(spec), presets())}"
        )
    raise SpecError(f"a spec is a DyTSpec, a dict, a path or a preset name; given {type(spec).__name__}")


def build(spec: DyTSpec | Mapping[str, Any] | str | Path, backbone: nn.Module | None = None) -> DynamicModel:
    """Builds the dynamic model of a spec, or wraps an existing timm model.

    Args:
        spec: a DyTSpec, a dict, a path to YAML or JSON, or the name of a preset (`dyt.presets()`).
        backbone: a timm model to wrap, or a ViT, DINOv2, CLIP-vision or SigLIP-vision model of Hugging Face
            transformers; it is changed in place and frozen. Its head is kept, and must have the spec's number of
            classes where the spec says one; a model of transformers without a classifier gets a new one. Without a
            backbone, the spec's is made, with a new head where the weights have none.

    Returns:
        The model, in the backbone's train or eval mode (eval for one made here), only adapters, dispatchers and head
        trainable, with what the spec's tuner trains and `modules_to_save`, or everything with `trainable: full`. The
        spec of a model on a given backbone says which that is, and `weights: given` unless it says otherwise.

    Raises:
        SpecError: a wrong spec, a backbone whose head has another number of classes, or one without a module that
            `modules_to_save` names.
        UnsupportedError: a backbone that is already dynamic, or one whose blocks no family knows, or a variant or tuner
            that its family does not offer. Nothing was changed.
        WeightsError: pretrained weights that cannot be had.
    """
    spec = resolve(spec)
    if backbone is None:
        backbone, new_head = backbones.create(spec.backbone, spec.head.classifier)
        backbone.eval()
    else:
        backbone, new_head = bridges.bridged(backbone, spec.head.classifier)
        spec = _with_its_classes(backbone, spec)
        _check_given(backbone, spec)
        spec = spec.model_copy(update={"backbone": backbones.described(backbone, spec.backbone)})
    return assembled(spec, backbone, new_head)


def assembled(spec: DyTSpec, backbone: nn.Module, new_head: bool = False) -> DynamicModel:
    """The dynamic model of a plain backbone that was checked, changed in place; the spec is taken as it is.

    Raises:
        SpecError, UnsupportedError: as `build`. Nothing was changed.
    """
    key, tuner = context.ModelKey(), tuner_of(spec)
    # everything that can be refused is refused before the first change
    replaced = _dynamic_blocks(backbone, spec, key, tuner)
    head_class = registry.heads.get(spec.head.type)
    reason = head_class.refusal(spec.head, backbone, next(iter(replaced.values())).family)
    if reason is None and head_class.reads_grid:
        reason = _grid_refusal(spec, tuner)
    if reason is not None:
        raise UnsupportedError(f"head '{spec.head.type}' is not available for {type(backbone).__name__}: {reason}")
    check_modules(backbone, spec.modules_to_save)
    thawed = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    backbones.with_windows(backbone, spec.backbone)  # refuses before it changes
    for path, block in replaced.items():
        parent, _, name = path.rpartition(".")
        backbone.get_submodule(parent).register_module(name, block)
        if block.reduction is not None and block.reduction.needs_keys:
            block.family.listen(block)
    if tuner is not None:
        tuner.apply(backbone, next(iter(replaced.values())).family)
    _freeze(backbone, spec, tuner)
    if new_head:
        start_head(backbone)
    model = DynamicModel(backbone, spec, key, head_class(spec.head, backbone), tuner)
    asked = any(
        getattr(module, "grad_checkpointing", False) for module in backbone.modules()
    )  # Swin's reductions have it
    if asked:
        backbone.set_grad_checkpointing(False)  # type: ignore[operator]
        model.set_grad_checkpointing()
    # timm would recompute whole blocks, dispatchers included, outside the context that they ran in
    backbone.set_grad_checkpointing = partial(checkpoint_blocks, model.dynamic_blocks)  # type: ignore[assignment]
    for parameter in trainable(model):
        parameter.requires_grad_(True)
    model.origin = Origin.of(model, thawed)
    return model


def _grid_refusal(spec: DyTSpec, tuner: Tuner | None) -> str | None:
    """Why a head cannot read one token for each patch of every layer; None when it can."""
    if spec.reducer is not None:
        return f"it reads one token for each patch, which reducer '{spec.reducer.type}' does not leave"
    return None if tuner is None else tuner.intermediates_refusal()


def tuner_of(spec: DyTSpec) -> Tuner | None:
    """What tunes the backbone of this spec; None for nothing."""
    if spec.tuner is None:
        return None
    made: Tuner = registry.tuners.get(spec.tuner.type)(spec.tuner)
    return made


def _with_its_classes(backbone: nn.Module, spec: DyTSpec) -> DyTSpec:
    """The spec for a given backbone's classifier, where it says no number of classes itself."""
    given = getattr(backbone, "num_classes", None)
    known = isinstance(given, int) and spec.head.classifier == spec.head.num_classes
    return spec.with_classes(given) if known and given is not None and not spec.says_classes else spec


def is_dynamic(backbone: nn.Module) -> bool:
    """Whether a model is dynamic already, whole or its backbone."""
    return isinstance(backbone, DynamicModel) or any(isinstance(m, DynamicBlock) for m in backbone.modules())


def _check_given(backbone: nn.Module, spec: DyTSpec) -> None:
    if is_dynamic(backbone):
        raise UnsupportedError("backbone is already dynamic; give a plain timm model (dyt.unwrap makes it one again)")
    if families.find(backbone) is None:
        raise UnsupportedError(f"{unknown_blocks(backbone)}; families: {', '.join(registry.families.names())}")
    given = getattr(backbone, "num_classes", None)
    if given != spec.head.classifier:
        raise SpecError(
            f"head.num_classes is {spec.head.classifier} but the given backbone has {given}; change the spec, or "
            f"{bridges.remedy(backbone, spec.head.classifier)}"
        )


def _dynamic_blocks(
    backbone: nn.Module, spec: DyTSpec, key: context.ModelKey, tuner: Tuner | None
) -> dict[str, DynamicBlock]:
    found = families.find(backbone)
    if found is None:
        raise UnsupportedError(f"{unknown_blocks(backbone)}; families: {', '.join(registry.families.names())}")
    _, family = found
    variant = registry.variants.get(spec.variant.type)
    reason = refusal(family, backbone, variant)
    if reason is not None:
        raise UnsupportedError(
            f"variant '{spec.variant.type}' is not available for {type(backbone).__name__}: {reason}"
        )
    dispatcher = registry.dispatchers.get(spec.dispatcher.type)
    adapter = registry.adapters.get(spec.adapter.type)
    _check_parts(family, backbone, spec, variant, dispatcher)
    _check_tuner(family, backbone, spec, tuner, dispatcher)
    train_executor, eval_executor = (registry.executors.get(name)() for name in DEFAULT_EXECUTORS)
    prefix = family.prefix_tokens(backbone) + (0 if tuner is None else tuner.prompts)
    blocks: dict[str, DynamicBlock] = {}
    paths = dynamic_paths(family.blocks(backbone), spec.variant)
    rates = rates_of(spec, len(paths))
    capacities = capacities_of(spec, len(paths) * len(variant.dispatched))
    reductions = _reductions(family, backbone, spec, variant, dispatcher, key)
    last, index = max(len(paths) * len(variant.dispatched) - 1, 1), 0
    for path, rate in zip(paths, rates, strict=True):
        block = backbone.get_submodule(path)
        dim = family.dim(backbone, block)
        like = next(block.parameters())
        sites = {}
        for branch in variant.dispatched:
            build_context = BuildContext(dim, index / last, rate)
            parts = dispatcher(spec.dispatcher, build_context), adapter(spec.adapter, dim)
            executors = train_executor, eval_executor
            raster, name = family.raster(backbone, path), f"{path}.{branch}"
            site = Site(index, name, *parts, prefix, key, executors, rate, raster, capacities[index])
            sites[branch] = site.to(device=like.device, dtype=like.dtype)
            index += 1
        blocks[path] = variant(spec.variant, block, family, sites, reductions.get(path))
    return blocks


def refusal(family: families.Family, backbone: nn.Module, variant: type[DynamicBlock]) -> str | None:
    """Why this family cannot offer this variant on this backbone; None when it can."""
    reasons = (family.refusal(backbone, branch) for branch in variant.dispatched)
    return next((reason for reason in reasons if reason is not None), None)


def _check_parts(
    family: families.Family,
    backbone: nn.Module,
    spec: DyTSpec,
    variant: type[DynamicBlock],
    dispatcher: type[Dispatcher],
) -> None:
    """Refuses what dispatcher and adapter ask of the backbone and its family does not have, or its windows do not."""
    reason = combination_refusal(spec, variant, dispatcher)
    if reason is not None:
        raise UnsupportedError(f"backbone.window_size is not available here: {reason}")
    reason = family.attention_refusal(backbone) if dispatcher.needs_attention else None
    if reason is not None:
        raise UnsupportedError(
            f"dispatcher '{spec.dispatcher.type}' is not available for {type(backbone).__name__}: {reason}"
        )
    bare = [branch for branch in variant.dispatched if branch not in family.norms]
    if bare and getattr(spec.adapter, "input", "block") == "normalised":
        raise UnsupportedError(
            f"adapter.input: normalised is not available for {type(backbone).__name__}: its {bare[0]} branch does not "
            f"start with a norm of its own; use input: block"
        )


def _check_tuner(
    family: families.Family, backbone: nn.Module, spec: DyTSpec, tuner: Tuner | None, dispatcher: type[Dispatcher]
) -> None:
    """Refuses a tuner that the backbone's family cannot have, or the dispatcher, or the reducer."""
    if tuner is None or spec.tuner is None:
        return
    reason = tuner.refusal(backbone, family)
    if reason is None and tuner.prompts and dispatcher.needs_attention:
        reason = f"dispatcher '{spec.dispatcher.type}' ranks by attention among the backbone's own tokens"
    if reason is None and tuner.prompts and spec.reducer is not None:
        reason = f"reducer '{spec.reducer.type}' would take its tokens for patches"
    if reason is not None:
        raise UnsupportedError(f"tuner '{spec.tuner.type}' is not available for {type(backbone).__name__}: {reason}")


def _reductions(
    family: families.Family,
    backbone: nn.Module,
    spec: DyTSpec,
    variant: type[DynamicBlock],
    dispatcher: type[Dispatcher],
    key: context.ModelKey,
) -> dict[str, TokenReduction]:
    """The reduction of every block by its path; none without a reducer."""
    if spec.reducer is None:
        return {}
    reducer: type[Reducer] = registry.reducers.get(spec.reducer.type)
    reason = _reducer_refusal(family, backbone, spec, variant, dispatcher, reducer)
    if reason is not None:
        raise UnsupportedError(
            f"reducer '{spec.reducer.type}' is not available for {type(backbone).__name__}: {reason}"
        )
    paths, prefix, whole = family.blocks(backbone), family.prefix_tokens(backbone), family.reads_patches(backbone)
    own = cast(ReducerSpec, spec.reducer)
    layers = reducer.layers(own, len(paths))
    reductions, state = {}, TokenState()
    for i, path in enumerate(paths):
        block, acts = backbone.get_submodule(path), None
        if i in layers:
            acts = reducer(
                own, BuildContext(family.dim(backbone, block), block=i, index=layers.index(i), of=len(layers))
            )
        like = next(block.parameters())
        reduction = TokenReduction(path, acts, prefix, key, state, path == paths[0], path == paths[-1], whole)
        reductions[path] = reduction.to(device=like.device, dtype=like.dtype)
    return reductions


def _reducer_refusal(
    family: families.Family,
    backbone: nn.Module,
    spec: DyTSpec,
    variant: type[DynamicBlock],
    dispatcher: type[Dispatcher],
    reducer: type[Reducer],
) -> str | None:
    """What a reducer asks of the backbone, its family and the rest of the spec and does not get; None for nothing."""
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


def unknown_blocks(backbone: nn.Module) -> str:
    blocks = getattr(backbone, "blocks", None) or [m for m in backbone.modules() if type(m).__name__.endswith("Block")]
    classes = {type(block).__name__ for block in blocks}
    inside = f" with blocks {', '.join(sorted(classes))}" if classes else ""
    return f"no family knows the blocks of {type(backbone).__name__}{inside}"


def _freeze(backbone: nn.Module, spec: DyTSpec, tuner: Tuner | None) -> None:
    backbone.requires_grad_(spec.trainable == "full")
    tuned = tuned_keys(backbone, tuner)
    for name, parameter in backbone.named_parameters():
        if name in tuned:
            parameter.requires_grad_(True)
    for module in backbone.modules():
        if isinstance(module, (Site, TokenReduction)):
            module.requires_grad_(True)
    for head in classifiers(backbone):
        head.requires_grad_(True)
