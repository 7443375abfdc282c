"""The law for one reducer alone, on random tokens; a plain function of one example."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dyt.core.context import BuildContext, DecisionContext
from dyt.reducers.base import Carried
from dyt.registry import reducers
from dyt.testing.laws import require


def reducer_keeps_the_order(
    reducer: Mapping[str, Any], seed: int, prefix: int, patches: int, depth: int, training: bool
) -> None:
    """Law 9: prefix tokens are unchanged, kept patch tokens stay in order, and the carried state matches the tokens.

    The reducers act one after the other, as in a model of `depth` blocks, on tokens that are all different.
    """
    torch.manual_seed(seed)
    kind = reducers.get(reducer["type"])
    spec = kind.Spec(**reducer)
    layers = kind.layers(spec, depth)
    require(list(layers) == sorted({i for i in layers if 0 <= i < depth}), f"layers: {layers} of {depth} blocks")
    x, carried = torch.randn(3, prefix + patches, 8), Carried(patches)
    for i, block in enumerate(layers):
        module = kind(spec, BuildContext(8, block=block, index=i, of=len(layers))).train(training)
        keys = torch.randn(3, x.shape[1], 4) if kind.needs_keys else None
        attention = torch.rand(3, x.shape[1] - prefix) if kind.needs_attention else None
        context = DecisionContext(
            training, attention=None if attention is None else partial(torch.clone, attention), prefix=prefix, keys=keys
        )
        before, after = (x, carried), module.reduce(x, carried, context)
        x, carried = after.x.detach(), after.carried
        where, shape, were = f"block {block} of {depth}", tuple(x.shape), before[0].shape[1]
        require(x.ndim == 3 and prefix <= shape[1] <= were, f"{where}: x {shape} of {were} tokens")
        require((shape[0], shape[2], x.dtype) == (3, 8, torch.float32), f"{where}: x {shape} {x.dtype}")
        require(shape[1] > prefix or were == prefix, f"{where}: not one patch token is left")
        told = carried.source is not None or shape[1] == prefix + patches or not kind.restores
        require(told, f"{where}: it says that it restores, and has no source for each patch")
        require(torch.equal(x[:, :prefix], before[0][:, :prefix]), f"{where}: a prefix token is not what it was")
        for old, new in zip(before[0][:, prefix:], x[:, prefix:], strict=True):
            places = [int(same.nonzero()[0]) for token in new if (same := (old == token).all(1)).any()]
            require(places == sorted(set(places)), f"{where}: kept tokens are not in ascending order: {places}")
        carried_is_consistent(before[1], carried, prefix, x, where)
        if after.penalty is not None:
            require(after.penalty.shape == () and after.penalty.isfinite(), f"{where}: penalty {after.penalty}")


def carried_is_consistent(before: Carried, carried: Carried, prefix: int, x: Tensor, where: str) -> None:
    """Sizes, sources and kept tokens are those of the tokens x (B, N, C), `prefix` of them prefix tokens."""
    rows, count = x.shape[:2]
    require(carried.patches == before.patches, f"{where}: carried.patches is {carried.patches}, not {before.patches}")
    if carried.sizes is not None:
        require(carried.sizes.shape == (rows, count), f"{where}: sizes {tuple(carried.sizes.shape)} of {count} tokens")
        require((carried.sizes[:, :prefix] == 1).all(), f"{where}: a prefix token's size is not 1")
        require((carried.sizes > 0).all(), f"{where}: a token's size is not above 0")
        whole = carried.sizes[:, prefix:].sum(1).max() if rows else 0
        require(whole <= carried.patches, f"{where}: sizes add up to {whole}, of {carried.patches} patches")
    if carried.source is not None:
        source = carried.source
        wanted = (rows, carried.patches)
        require(source.dtype == torch.int64 and source.shape == wanted, f"{where}: source {tuple(source.shape)}")
        require(((source >= 0) & (source < count - prefix)).all(), f"{where}: a source is no present patch token")
        if carried.sizes is not None:
            stood = torch.zeros(rows, count - prefix).scatter_add(1, source, torch.ones(source.shape))
            require(torch.equal(stood, carried.sizes[:, prefix:]), f"{where}: sizes are not those of the sources")
    if carried.kept is not None:
        kept = carried.kept.detach()
        require(kept.shape == (rows, count), f"{where}: kept {tuple(kept.shape)} of {count} tokens")
        require(((kept == 0) | (kept == 1)).all(), f"{where}: kept is neither 0 nor 1")
        require((kept[:, :prefix] == 1).all(), f"{where}: a prefix token is dropped")
        if before.kept is not None and before.kept.shape == kept.shape:
            require((kept <= before.kept).all(), f"{where}: a token that was dropped is kept again")
