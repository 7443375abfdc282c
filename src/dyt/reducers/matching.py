"""Bipartite soft matching and merging as pure functions (ToMe, arXiv:2210.09461, section 3 and appendix D).

Shapes: B images, P tokens that may be merged (prefix tokens already taken off), D channels of the metric.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def matching(metric: Tensor, r: int) -> Tensor:
    """The position of each token after the r most similar pairs are merged.

    Each token at an odd position proposes to the most similar (cosine) token at an even position; the r best proposals
    are accepted. With one class token before them these are ToMe's own two sets. Ties go to the earlier position.

    Args:
        metric: (B, P, D), compared in float32.
        r: pairs to merge; P // 2 at most, as there are no more proposals.

    Returns:
        (B, P) int64: each token's position in the merged sequence of P - r tokens, whose order is kept; accepted
        proposers have the position of the token that they are merged into.
    """
    batch, count = metric.shape[:2]
    places = torch.arange(count, device=metric.device).expand(batch, count)
    r = min(r, count // 2)
    if r <= 0:
        return places
    with torch.autocast(metric.device.type, enabled=False):
        unit = F.normalize(metric.detach().float(), dim=-1)
        best, partner = (unit[:, 1::2] @ unit[:, ::2].mT).max(-1)
    accepted = best.argsort(dim=1, descending=True, stable=True)[:, :r]
    goes = 2 * accepted + 1
    into = places.scatter(1, goes, 2 * partner.gather(1, accepted))
    stays = torch.ones_like(places).scatter(1, goes, 0)
    return (stays.cumsum(1) - 1).gather(1, into)


def merge(x: Tensor, sizes: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The average of the tokens that share a position, weighted by the number of patches that each stands for.

    Args:
        x: (B, P, C).
        sizes: (B, P) float32.
        places: (B, P) int64 in [0, count).
        count: tokens of the merged sequence.

    Returns:
        x (B, count, C) in its dtype, summed in float32; sizes (B, count) float32, whose total is conserved.
    """
    weighted = x.float() * sizes.unsqueeze(-1)
    index = places.unsqueeze(-1).expand_as(weighted)
    total = weighted.new_zeros(x.shape[0], count, x.shape[-1]).scatter_add(1, index, weighted)
    merged = sizes.new_zeros(x.shape[0], count).scatter_add(1, places, sizes)
    return (total / merged.unsqueeze(-1)).to(x.dtype), merged
