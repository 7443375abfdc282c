"""Pure functions on attention that families share: masks and positions of gathered tokens, the class token's row.

Shapes: B images, N tokens (prefix included), K given tokens (N or the gathered ones), H heads, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.core.calls import bare
from dyt.core.route import Tokens


def mask_for(x: Tensor, tokens: Tokens, bias: Tensor | None = None, is_causal: bool = False) -> Tensor | None:
    """The mask for the attention among the tokens x (B, K, C).

    Args:
        x: the given tokens.
        tokens: which ones they are.
        bias: the block's mask for all N tokens: an attention mask (bool, True where a query may see a key, or
            float, added to the scores) or a relative-position bias; broadcastable to (B, H, N, N), also in its queries.
        is_causal: whether a token attends to no later token.

    Returns:
        bool or float, broadcastable to (B, H, K, K); None when every token attends to every token. An invalid token
        attends to itself and to the valid tokens, so that no row is empty whatever `bias` contains.
    """
    if bias is not None:
        bias = gather_pairs(_of_images(bias, tokens), tokens.index)
    if is_causal:
        earlier = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        bias = earlier if bias is None else _both(bias, earlier)
    sees = tokens.sees()
    if bias is None or sees is None:
        return sees if bias is None else bias
    assert tokens.valid is not None
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device) & ~tokens.valid[:, None, :, None]
    bias = _both(bias, sees)
    return bias | itself if bias.dtype == torch.bool else bias.masked_fill(itself, 0.0)


def _both(bias: Tensor, sees: Tensor) -> Tensor:
    return bias & sees if bias.dtype == torch.bool else bias.masked_fill(~sees, -torch.inf)


def gather_pairs(bias: Tensor, index: Tensor | None) -> Tensor:
    """(B, H, K, K) of a bias broadcastable to (B, H, N, N), at the positions `index` (B, K); all of it for None."""
    bias = bias[(None,) * (4 - bias.ndim)]
    if index is None:
        return bias
    heads, queries, count = bias.shape[1:]
    where = index[:, None, :] if queries == 1 else index[:, :, None] * count + index[:, None, :]
    flat = bias.flatten(2).expand(len(index), -1, -1)
    found = flat.gather(2, where.flatten(1)[:, None].expand(-1, heads, -1))
    return found.reshape(len(index), heads, -1, index.shape[1])


def _of_images(given: Tensor, tokens: Tokens) -> Tensor:
    """The rows of these tokens' images, of a tensor (B, ...) of four dimensions with one row per image of the batch."""
    if tokens.images is None or given.ndim < 4 or len(given) == 1:
        return given
    return given[tokens.images]


def gather_rope(rope: Tensor, tokens: Tokens, prefix: int) -> Tensor:
    """Rotary embeddings of the patch tokens among the given ones, (B, H or 1, K - prefix, D).

    Args:
        rope: of all patch tokens, (N - prefix, D), (H, N - prefix, D) or (B, H or 1, N - prefix, D).
        tokens: which ones they are, the prefix tokens first; with no index all of `rope`.
        prefix: number of prefix tokens, which have no rotary embedding.
    """
    rope, index = _of_images(rope, tokens), tokens.index
    if index is None:
        return rope
    rope = rope[(None,) * (4 - rope.ndim)].expand(len(index), -1, -1, -1)
    where = (index[:, prefix:] - prefix)[:, None, :, None]
    return rope.gather(2, where.expand(-1, rope.shape[1], -1, rope.shape[3]))


def unseen(x: Tensor, mask: Tensor | None) -> Tensor | None:
    """(B, N) bool: the tokens of x (B, N, C) that an attention mask (bool or float) hides from all queries; padding."""
    if mask is None:
        return None
    mask = mask[(None,) * (4 - mask.ndim)]
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    return ~seen.flatten(1, 2).any(1).expand(len(x), -1)


def outputs(linear: Any, x: Tensor, start: int, stop: int) -> Tensor:
    """The outputs `start` to `stop` of a linear map of x, computed alone.

    If another library has replaced or hooked the layer (`bare`), all outputs are computed and sliced.
    """
    if type(linear) is not nn.Linear or not bare(linear):
        found: Tensor = linear(x)[..., start:stop]
        return found
    bias = None if linear.bias is None else linear.bias[start:stop]
    return F.linear(x, linear.weight[start:stop], bias)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, K, H * D) -> (B, H, K, D)."""
    return x.reshape(*x.shape[:2], heads, x.shape[-1] // heads).transpose(1, 2)


def class_row(q: Tensor, k: Tensor, scale: float, prefix: int, bias: Tensor | None = None) -> Tensor:
    """The class token's attention to each patch token, the mean over heads (EViT, arXiv:2202.07800, eq. 3).

    Args:
        q: the class token's query, (B, H, 1, D).
        k: every token's key, (B, H, N, D).
        scale: factor of the scores.
        prefix: number of prefix tokens; they take part in the softmax and are left out of the result.
        bias: attention mask or relative-position bias, broadcastable to (B, H, N, N).

    Returns:
        (B, N - prefix) float32.
    """
    scores = (q @ k.mT).float() * scale
    if bias is not None:
        row = gather_pairs(bias, None)[:, :, :1]
        scores = scores.masked_fill(~row, -torch.inf) if row.dtype == torch.bool else scores + row.float()
    return scores.softmax(-1).mean(1)[:, 0, prefix:]


def biased_attention(attn: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """(B, K, C): attention with this bias instead of the module's own, then its projection and dropouts."""
    dropout = attn.attn_drop.p if attn.training else 0.0
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=attn.scale)
    out: Tensor = attn.proj_drop(attn.proj(mixed.transpose(1, 2).flatten(2)))
    return out
