"""Multiply-accumulates of attention, whichever operator torch chooses for it.

Scores and weighted sum: for each query and key, as many as a query has channels and a value has. Masks, causal or
other, are not taken off: so is attention counted that is made of plain products. Grouped queries count as queries.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from dyt.measure.flops.products import Formula, shapes


def attention(out: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    """Of query (..., Q, D), key (..., K, D) and value (..., K, E); nested ones part by part."""
    parts = zip(shapes(query), shapes(key), shapes(value), strict=True)
    return sum(prod(q[:-1]) * k[-2] * (q[-1] + v[-1]) for q, k, v in parts)


def attention_backward(
    out: Any, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> int:
    """The scores again, and the gradients of weights, values, queries and keys."""
    return prod(query.shape[:-1]) * int(key.shape[-2]) * (3 * int(query.shape[-1]) + 2 * int(value.shape[-1]))


def _known(x: Any) -> bool:
    """Whether a tensor's values can be read."""
    return isinstance(x, Tensor) and x.device.type != "meta" and not isinstance(x, FakeTensor)


def _lengths(ends: Tensor, longest: Any) -> list[int]:
    """Of sequences that lie behind one another, from where they end; the longest where values are not known."""
    if not _known(ends):
        return [int(longest)] * (len(ends) - 1)
    return [int(n) for n in ends.diff().tolist()]


def _varying(
    query: Tensor,
    value: Tensor,
    ends: Tensor,
    key_ends: Tensor | None,
    longest: tuple[Any, Any],
    used: Any,
) -> int:
    """Of sequences behind one another: query (..., T, H, D). `used`: how many keys of each are looked at."""
    queries = _lengths(ends, longest[0])
    if _known(used):
        keys = [int(n) for n in used.tolist()]
    else:
        keys = _lengths(ends if key_ends is None else key_ends, longest[0 if key_ends is None else 1])
    pairs = sum(q * k for q, k in zip(queries, keys, strict=True))
    return pairs * int(query.shape[-2]) * (int(query.shape[-1]) + int(value.shape[-1]))


def _rows_first(query: Tensor, key: Tensor, value: Tensor, used: Any) -> int:
    """Of query (B, Q, H, D), key (B, K, H, D), value (B, K, H, E)."""
    if _known(used):
        pairs = int(query.shape[1]) * int(used.sum())
    else:
        pairs = int(query.shape[0]) * int(query.shape[1]) * int(key.shape[1])
    return pairs * int(query.shape[-2]) * (int(query.shape[-1]) + int(value.shape[-1]))


def flash(
    out: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor | None,
    key_ends: Tensor | None,
    *args: Any,
    **kw: Any,
) -> int:
    """Of `_flash_attention_forward`: rows before heads; with ends, sequences behind one another."""
    used = kw.get("seqused_k")
    if ends is None:
        return _rows_first(query, key, value, used)
    return _varying(query, value, ends, key_ends, (args[0], args[1]), used)


def flash_into(out: Any, into: Tensor, *args: Any, **kwargs: Any) -> int:
    """Of the same into a given tensor."""
    return flash(out, *args, **kwargs)


def efficient(
    out: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Any,
    ends: Tensor | None,
    key_ends: Tensor | None,
    *args: Any,
    **kw: Any,
) -> int:
    """Of `_efficient_attention_forward`: as flash, with a bias before the ends."""
    if ends is None:
        return _rows_first(query, key, value, kw.get("seqlen_k"))
    return _varying(query, value, ends, key_ends, (args[0], args[1]), kw.get("seqlen_k"))


def cudnn(
    out: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Any,
    ends: Tensor | None,
    key_ends: Tensor | None,
    *args: Any,
    **kw: Any,
) -> int:
    """Of `_cudnn_attention_forward`: heads before rows, but for sequences behind one another."""
    if ends is None:
        return attention(out, query, key, value)
    return _varying(query, value, ends, key_ends, (args[0], args[1]), kw.get("seqused_k"))


def varlen(
    out: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    key_ends: Tensor | None,
    longest: int,
    longest_key: int,
    *args: Any,
    **kw: Any,
) -> int:
    """Of `torch.nn.attention.varlen`; the keys that are used stand sixth behind the lengths, or under their name."""
    used = kw.get("seqused_k", args[4] if len(args) > 4 and isinstance(args[4], Tensor) else None)
    return _varying(query, value, ends, key_ends, (longest, longest_key), used)


def varlen_into(out: Any, into: Tensor, *args: Any, **kwargs: Any) -> int:
    """Of the same into a given tensor."""
    return varlen(out, *args, **kwargs)


def multi_head(
    out: Any, query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, *args: Any, **kwargs: Any
) -> int:
    """Of `torch.nn.MultiheadAttention` in one operator: three projections, attention, and one more; query (B, N, C)."""
    parts = list(zip(shapes(query), shapes(key), shapes(value), strict=True))
    projected = sum(2 * prod(q) + prod(k) + prod(v) for q, k, v in parts) * width
    return projected + sum(prod(q[:-1]) * k[-2] * 2 * width for q, k, _ in parts)


def encoder_layer(out: Any, x: Tensor, width: int, heads: int, *args: Any, **kwargs: Any) -> int:
    """Of `torch.nn.TransformerEncoderLayer` in one operator: its attention and its two linear layers."""
    tokens = sum(prod(shape[:-1]) for shape in shapes(x))
    return multi_head(out, x, x, x, width, heads) + tokens * (int(args[11].numel()) + int(args[13].numel()))


_CHOSEN = (
    "flash_attention flash_attention_for_cpu efficient_attention cudnn_attention fused_attention_overrideable "
    "attention_math_for_mps"
)

ATTENTION: dict[str, Formula] = {
    **{f"aten::_scaled_dot_product_{name}": attention for name in _CHOSEN.split()},
    **{f"aten::_scaled_dot_product_{name}_backward": attention_backward for name in _CHOSEN.split()},
    "aten::scaled_dot_product_attention": attention,
    "aten::_triton_scaled_dot_attention": attention,
    "aten::_flash_attention_forward": flash,
    "aten::_flash_attention_forward_no_dropout_inplace": flash_into,
    "aten::_efficient_attention_forward": efficient,
    "aten::_cudnn_attention_forward": cudnn,
    "torch_attn::_varlen_attn": varlen,
    "torch_attn::_varlen_attn_out": varlen_into,
    "aten::_native_multi_head_attention": multi_head,
    "aten::_triton_multi_head_attention": multi_head,
    "aten::_transformer_encoder_layer_fwd": encoder_layer,
    "flex_attention": attention,
}
"""By operator, as `PRODUCTS`."""
