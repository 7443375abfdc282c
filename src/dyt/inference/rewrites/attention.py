"""The attention branch onto the residual stream: for every token, or for the tokens alone that the head reads.

Shapes: B images, N tokens, C channels, H heads of D channels, k leading tokens that the head reads.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.assembly.window_attention import windows_of
from dyt.core.offloading import at_hand
from dyt.families.attention import gather_pairs, split_heads
from dyt.inference.rewrites.products import add_linear, fixed, is_linear, scaled, scales


class FusedAttention(nn.Module):
    """x + ls1(attn(norm1(x))) of timm's block, with LayerScale in the last product, which accumulates onto x.

    Args:
        block: a block of timm's for which `refusal` is None; its modules are taken over.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        attn = block.attn
        self.heads, self.scale = attn.num_heads, attn.scale
        self.pre, self.qkv, self.q_norm, self.k_norm, self.norm = (
            block.norm1, attn.qkv, attn.q_norm, attn.k_norm, attn.norm
        )  # fmt: skip
        self.proj = scaled(attn.proj, block.ls1)

    @staticmethod
    def refusal(block: Any) -> str | None:
        """Why this block's attention is not rewritten; None when it is."""
        attn = block.attn
        if windows_of(attn) is not None:
            return "its attention works within windows"
        if type(attn) is not Attention or getattr(attn, "gate", None) is not None:
            return f"its attention is a {'gated ' if type(attn) is Attention else ''}{type(attn).__name__}"
        if not (is_linear(attn.qkv) and is_linear(attn.proj) and scales(block.ls1)):
            return "another library's modules are in its attention"
        return None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, C), for `mask` broadcastable to (B, H, N, N), bool or added to the scores, or None."""
        return add_linear(x, self._mixed(x, mask), self.proj)

    def branch(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The same without x."""
        out: Tensor = self.proj(self._mixed(x, mask))
        return out

    def _mixed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What the last product is given."""
        q, k, v = self.qkv(self.pre(x)).reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=mask)
        out: Tensor = self.norm(mixed.transpose(1, 2).flatten(2))
        return out


class LeadingAttention(nn.Module):
    """The same for the first k tokens alone: their queries, and keys and values that are never made.

    With q = x_q W_q and keys X W_k, the scores q (X W_k)^T are (q W_k^T) X^T: the key projection is applied to k
    queries and not to N tokens. With attention A, A (X W_v) is (A X) W_v: the value projection is applied to k pooled
    tokens. A key's bias adds the same to all scores of a query, which softmax takes no notice of. Keys that are
    normalised before they meet a query (qk-norm) are computed for all tokens; values are still absorbed.

    Args:
        block: a block of timm's for which `FusedAttention.refusal` is None.
        count: k.
    """

    def __init__(self, block: Any, count: int) -> None:
        super().__init__()
        attn = block.attn
        self.heads, self.scale, self.count = attn.num_heads, attn.scale, count
        self.pre, self.q_norm, self.k_norm, self.norm = block.norm1, attn.q_norm, attn.k_norm, attn.norm
        weights, biases = attn.qkv.weight.chunk(3), (None,) * 3 if attn.qkv.bias is None else attn.qkv.bias.chunk(3)
        self.q, self.k, self.v = (fixed(weight, bias) for weight, bias in zip(weights, biases, strict=True))
        self.absorbs_keys = isinstance(attn.k_norm, nn.Identity)
        self.proj = scaled(attn.proj, block.ls1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The first k tokens (B, k, C) after the attention among all of x (B, N, C); mask as in `FusedAttention`."""
        y = self.pre(x)
        scores = self.scores(self.q_norm(split_heads(self.q(y[:, : self.count]), self.heads)), y) * self.scale
        if mask is not None:
            rows = gather_pairs(mask, None)[:, :, : self.count]
            scores = scores.masked_fill(~rows, -torch.inf) if rows.dtype == torch.bool else scores + rows
        shares = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
        pooled = (shares.flatten(1, 2) @ y).reshape(*shares.shape[:3], -1)  # (B, H, k, C)
        with at_hand(self.v):
            mixed = (pooled @ self._by_head(self.v).mT).transpose(1, 2).flatten(2)
            if self.v.bias is not None:  # the shares of a query sum to one
                mixed = mixed + self.v.bias
        return add_linear(x[:, : self.count], self.norm(mixed), self.proj)

    def scores(self, q: Tensor, y: Tensor) -> Tensor:
        """(B, H, k, N) of queries q (B, H, k, D) and normalised tokens y (B, N, C), before their factor."""
        if not self.absorbs_keys:
            keys: Tensor = self.k_norm(split_heads(self.k(y), self.heads))
            return q @ keys.mT
        with at_hand(self.k):
            absorbed = q @ self._by_head(self.k)  # (B, H, k, C)
        return (absorbed.flatten(1, 2) @ y.mT).reshape(*q.shape[:3], -1)

    def _by_head(self, linear: nn.Linear) -> Tensor:
        """Its weight as (H, D, C)."""
        return linear.weight.reshape(self.heads, -1, linear.in_features)
