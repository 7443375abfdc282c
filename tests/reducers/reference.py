"""Slow, readable forms of what the reducers compute, written without the library: one image, one token at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def matched(metric: Tensor, r: int) -> list[tuple[int, int]]:
    """The r best pairs (goes, into) of one image's tokens, metric (P, D): odd places propose to even ones."""
    proposals = []
    for odd in range(1, len(metric), 2):
        similar = [
            (float(metric[odd] @ metric[even] / (metric[odd].norm() * metric[even].norm())), -even)
            for even in range(0, len(metric), 2)
        ]
        best, even = max(similar)
        proposals.append((-best, odd, -even))
    return [(odd, even) for _, odd, even in sorted(proposals)[:r]]


def merged(x: Tensor, sizes: list[float], pairs: list[tuple[int, int]]) -> tuple[Tensor, list[float]]:
    """One image's tokens (P, C) and their sizes after the merging of those pairs, in the order of their places."""
    groups = {i: [i] for i in range(len(x))}
    for goes, into in pairs:
        groups[into] += groups.pop(goes)
    tokens = [sum(sizes[i] * x[i] for i in group) / sum(sizes[i] for i in group) for group in groups.values()]
    return torch.stack(tokens), [sum(sizes[i] for i in group) for group in groups.values()]  # type: ignore[arg-type]


def attention(block: Any, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One image's attention branch (N, C) with `bias` (N, N) on the scores; its keys (H, N, D), its maps (H, N, N)."""
    attn = block.attn
    q, k, v = attn.qkv(block.norm1(x)).reshape(len(x), 3, attn.num_heads, -1).permute(1, 2, 0, 3)
    q, k = attn.q_norm(q), attn.k_norm(k)
    maps = (q @ k.mT / math.sqrt(q.shape[-1]) + bias).softmax(-1)
    out = attn.proj(attn.norm((maps @ v).transpose(0, 1).flatten(1)))
    return block.ls1(out), k, maps


def tome(backbone: Any, image: Tensor, r: int) -> tuple[Tensor, list[float]]:
    """The tokens (N', C) of one image (3, H, W) before the last norm, and the sizes of its patch tokens, under ToMe."""
    prefix = backbone.num_prefix_tokens
    x = backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(image[None])))[0]
    sizes = [1.0] * (len(x) - prefix)
    for block in backbone.blocks:
        bias = torch.tensor([1.0] * prefix + sizes).log().expand(len(x), -1)
        branch, keys, _ = attention(block, x, bias)
        x = x + branch
        patches, sizes = merged(x[prefix:], sizes, matched(keys.mean(0)[prefix:], r))
        x = torch.cat([x[:prefix], patches])
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return x, sizes


def evit(x: Tensor, row: Tensor, keep: float) -> Tensor:
    """One image's patch tokens (P, C) after EViT's selection by the class token's attention `row` (P,)."""
    count = math.ceil(round(keep * len(x), 6))
    order = sorted(range(len(x)), key=lambda i: -float(row[i]))
    kept = [x[i] for i in sorted(order[:count])]
    rest = order[count:]
    return torch.stack([*kept, sum(row[i] * x[i] for i in rest)] if rest else kept)  # type: ignore[list-item]
