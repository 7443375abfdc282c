"""What `build` is going to do: everything is decided, and whatever can be refused is refused, with nothing changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn

from dyt import registry
from dyt.assembly import compatibility
from dyt.assembly.allocation import block_rates, capacities_of, dynamic_paths
from dyt.assembly.extent import check_memory, nbytes
from dyt.assembly.rollback import rollback
from dyt.config.spec import DyTSpec
from dyt.core.context import BuildContext, ModelKey
from dyt.families import Family
from dyt.heads import Head
from dyt.model.block import DynamicBlock
from dyt.model.site import Site
from dyt.model.token_state import TokenReduction, TokenState
from dyt.reducers import Reducer, ReducerSpec
from dyt.tuners.base import Tuner

DEFAULT_EXECUTORS = ("masked", "sparse")
"""(in train mode, in eval mode)."""


@dataclass(frozen=True, eq=False)
class BuildPlan:
    """A model that can be built.

    Attributes:
        spec: what it is built from.
        backbone: what is to be changed in place.
        key: its identity.
        family: how the backbone's blocks split into branches.
        blocks: the dynamic blocks by the paths of those whose places they take; they share the modules of these.
        head: what stands behind the backbone.
        late_head: whether its constructor changes the backbone, so that it is made again when the blocks are dynamic.
        tuner: how the backbone itself is tuned; None for not at all.
        new_head: whether the backbone's classifier is to be started anew.
    """

    spec: DyTSpec
    backbone: nn.Module
    key: ModelKey
    family: Family
    blocks: Mapping[str, DynamicBlock]
    head: Head
    late_head: bool
    tuner: Tuner | None
    new_head: bool


def plan(spec: DyTSpec, backbone: nn.Module, new_head: bool = False) -> BuildPlan:
    """Decides everything about the dynamic model of a plain backbone, which is not changed.

    Every component is made here, so that whatever its constructor raises is raised before anything is changed.

    Raises:
        SpecError, UnsupportedError: as `dyt.build`.
    """
    with rollback(backbone):
        return _planned(spec, backbone, new_head)


def _planned(spec: DyTSpec, backbone: nn.Module, new_head: bool) -> BuildPlan:
    family, tuner = compatibility.known_family(backbone), tuner_of(spec)
    variant, dispatcher = registry.variants.get(spec.variant.type), registry.dispatchers.get(spec.dispatcher.type)
    head = registry.heads.get(spec.head.type)
    reducer: type[Reducer] | None = None if spec.reducer is None else registry.reducers.get(spec.reducer.type)
    compatibility.check(spec, backbone, family, variant, dispatcher, reducer, tuner, head)
    key = ModelKey()
    reductions = {} if reducer is None else _reductions(spec, backbone, family, reducer, key)
    blocks = {
        path: variant(spec.variant, backbone.get_submodule(path), family, sites, reductions.get(path))
        for path, sites in _sites(spec, backbone, family, variant, key, tuner).items()
    }
    with rollback(backbone, always=True) as before:
        made = head(spec.head, backbone)
        late = not before.holds()
    return BuildPlan(spec, backbone, key, family, blocks, made, late, tuner, new_head)


def tuner_of(spec: DyTSpec) -> Tuner | None:
    """What tunes the backbone of this spec; None for nothing."""
    if spec.tuner is None:
        return None
    made: Tuner = registry.tuners.get(spec.tuner.type)(spec.tuner)
    return made


def _sites(
    spec: DyTSpec,
    backbone: nn.Module,
    family: Family,
    variant: type[DynamicBlock],
    key: ModelKey,
    tuner: Tuner | None,
) -> dict[str, dict[str, Site]]:
    """The sites of every dynamic block by its path and their branches, on the devices of the blocks."""
    dispatcher, adapter = registry.dispatchers.get(spec.dispatcher.type), registry.adapters.get(spec.adapter.type)
    stand_in = None if spec.stand_in is None else registry.adapters.get(spec.stand_in.type)
    train_executor, eval_executor = (registry.executors.get(name)() for name in DEFAULT_EXECUTORS)
    prefix = family.prefix_tokens(backbone) + (0 if tuner is None else tuner.prompts)
    paths = dynamic_paths(family.blocks(backbone), spec.variant)
    count = len(paths) * len(variant.dispatched)
    rates, capacities = block_rates(spec.objective, len(paths)), capacities_of(spec, count)
    found: dict[str, dict[str, Site]] = {}
    index = 0
    for path, rate in zip(paths, rates, strict=True):
        block, sites = backbone.get_submodule(path), found.setdefault(path, {})
        dim, like, raster = family.dim(backbone, block), next(block.parameters()), family.raster(backbone, path)
        for branch in variant.dispatched:
            context = BuildContext(dim, index / max(count - 1, 1), rate)
            parts = dispatcher(spec.dispatcher, context), adapter(spec.adapter, dim)
            executors, name = (train_executor, eval_executor), f"{path}.{branch}"
            place = None if stand_in is None else stand_in(spec.stand_in, dim)
            site = Site(index, name, *parts, prefix, key, executors, rate, raster, capacities[index], place)
            sites[branch] = site.to(device=like.device, dtype=like.dtype)
            if index == 0 and like.device.type == "cpu":  # before the others are made
                check_memory(nbytes(site) * count, f"adapter '{spec.adapter.type}' at {count} sites")
            index += 1
    return found


def _reductions(
    spec: DyTSpec, backbone: nn.Module, family: Family, reducer: type[Reducer], key: ModelKey
) -> dict[str, TokenReduction]:
    """The reduction of every block by its path."""
    paths, prefix, whole = family.blocks(backbone), family.prefix_tokens(backbone), family.reads_patches(backbone)
    own = cast(ReducerSpec, spec.reducer)
    layers = reducer.layers(own, len(paths))
    reductions, state = {}, TokenState()
    for i, path in enumerate(paths):
        block, acts = backbone.get_submodule(path), None
        if i in layers:
            dim = family.dim(backbone, block)
            acts = reducer(own, BuildContext(dim, block=i, index=layers.index(i), of=len(layers)))
        like = next(block.parameters())
        reduction = TokenReduction(path, acts, prefix, key, state, path == paths[0], path == paths[-1], whole)
        reductions[path] = reduction.to(device=like.device, dtype=like.dtype)
    return reductions
