"""Selecting tokens by score, as pure functions."""

from __future__ import annotations

from torch import Tensor


def best(scores: Tensor, count: int) -> Tensor:
    """(B, count) int64: positions of the `count` highest scores (B, P), ascending; ties go to the earlier."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count].sort(dim=1).values


def pick(x: Tensor, index: Tensor) -> Tensor:
    """(B, K, C): the tokens of x (B, P, C) at the positions `index` (B, K)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
