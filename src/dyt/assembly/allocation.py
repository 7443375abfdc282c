"""What a spec gives each block and each site: which blocks are dynamic, at which rate, with how much capacity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dyt.config.base import ComponentSpec
from dyt.config.objective import ObjectiveSpec
from dyt.config.spec import DyTSpec
from dyt.core.execution import TokenCapacity
from dyt.errors import SpecError


def dynamic_paths(paths: Sequence[str], spec: ComponentSpec) -> list[str]:
    """The paths of the blocks that a variant's `layers` names, or all of them.

    Raises:
        SpecError: a block that is not there, or one named twice.
    """
    layers: tuple[int, ...] | None = getattr(spec, "layers", None)
    if layers is None:
        return list(paths)
    outside = [layer for layer in layers if not -len(paths) <= layer < len(paths)]
    if outside:
        raise SpecError(
            f"variant.layers: no block {outside[0]}; the backbone has blocks 0 to {len(paths) - 1}, or {-len(paths)} "
            f"to -1 counted from the end"
        )
    chosen = sorted({layer % len(paths) for layer in layers})
    if len(chosen) != len(layers):
        raise SpecError(f"variant.layers: {list(layers)} names a block twice")
    return [paths[layer] for layer in chosen]


def block_rates(objective: ObjectiveSpec, blocks: int) -> Sequence[float]:
    """The target rate of each of so many dynamic blocks.

    Raises:
        SpecError: another number of `layer_rates` than blocks.
    """
    rates = objective.layer_rates
    if rates is None:
        return [objective.rate] * blocks
    if len(rates) != blocks:
        raise SpecError(f"objective.layer_rates: {len(rates)} rates given for {blocks} dynamic blocks; give one each")
    return rates


def site_rates(objective: ObjectiveSpec, sites: Iterable[str]) -> list[float]:
    """The target rate of each site, given by name (`blocks.3.mlp`) in forward order: that of its block.

    Raises:
        SpecError: another number of `layer_rates` than the sites have blocks.
    """
    blocks = [site.rpartition(".")[0] for site in sites]
    distinct = list(dict.fromkeys(blocks))
    rates = dict(zip(distinct, block_rates(objective, len(distinct)), strict=True))
    return [rates[block] for block in blocks]


def capacities_of(spec: DyTSpec, sites: int) -> Sequence[TokenCapacity | None]:
    """The capacity that the spec gives each site; None for all tokens.

    Raises:
        SpecError: another number of shares than there are sites.
    """
    capacity = spec.capacity
    if capacity is None:
        return [None] * sites
    shares = capacity.share if isinstance(capacity.share, tuple) else (capacity.share,) * sites
    if len(shares) != sites:
        raise SpecError(f"capacity.share: {len(shares)} shares given for {sites} sites; give one each, or one for all")
    return [TokenCapacity(share, capacity.overflow) for share in shares]
