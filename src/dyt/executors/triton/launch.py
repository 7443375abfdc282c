"""The launches of an MLP branch: buffers and grids. Imports triton; only `operators` imports this file."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from dyt.executors.triton import tuning
from dyt.executors.triton.kernels import gelu_then_linear, scatter_then_linear
from dyt.executors.triton.row_kernels import compact, gather_norm, gelu_rows, pack_norm, scatter_rows
from dyt.executors.unseen import unseen


def mlp_onto(
    x: Tensor,
    active: Tensor,
    norm: tuple[Tensor, Tensor, float],
    fc1: tuple[Tensor, Tensor | None],
    fc2: tuple[Tensor, Tensor | None],
    scale: Tensor | None,
    out: Tensor,
    rows: int = 0,
) -> None:
    """Adds scale * fc2(gelu(fc1(norm(x)))) to `out` at the active tokens; nothing waits for the device.

    The first `rows` rows are multiplied by torch's own products, whose number of rows the host has to know, and however
    many there are beyond them by kernels that read the count. So the numbers never depend on `rows`, and the time does.

    Args:
        x: (T, C), contiguous.
        active: (T,) bool.
        norm: (C,) weight, (C,) bias, eps.
        fc1: (D, C) weight, (D,) bias or None.
        fc2: (C, D) weight, (C,) bias or None.
        scale: (C,) or None.
        out: (T, C), contiguous; it may be x.
        rows: as many as there usually are; 0 leaves all to the kernels.
    """
    total = len(x)
    if total == 0:
        return
    assert x.is_contiguous()
    assert out.is_contiguous()
    normed, index, count = packed(x, active, norm)
    middle = x.new_empty(total, len(fc1[0]))
    rows = min(rows, total)
    if rows:
        _counted_rows(normed, middle, rows, fc1, fc2, scale, index, count, out)
    if rows < total and not (rows and "tail" in tuning.JOINED):
        product(normed, *fc1, None, index, count, middle, gelu=True, scatter=False, first=rows)
        product(middle, *fc2, scale, index, count, out, gelu=False, scatter=True, first=rows)


def packed(x: Tensor, active: Tensor, norm: tuple[Tensor, Tensor, float]) -> tuple[Tensor, Tensor, Tensor]:
    """The active ones of tokens x (T, C), normalised, in the first rows of (T, C); (T,) int32 where they come from; ()
    int32 how many they are. What is behind them is anything."""
    total, channels = x.shape
    index, count = x.new_empty(total, dtype=torch.int32), x.new_empty((), dtype=torch.int32)
    normed, active = torch.empty_like(x), active.contiguous().view(torch.uint8)
    weight, bias, eps = norm
    block = triton.next_power_of_2(channels)
    if "pack" in tuning.JOINED:
        sizes = {"BLOCK": block, "TOGETHER": tuning.PACKED, "COUNTED": tuning.COUNTED}
        grid = (triton.cdiv(total, tuning.PACKED),)
        pack_norm[grid](x, active, index, count, weight, bias, normed, eps, total, channels, **sizes, num_warps=8)
        return normed, index, count
    compact[(triton.cdiv(total, tuning.COMPACTED),)](active, index, count, total, BLOCK=tuning.COMPACTED, num_warps=8)
    gather_norm[(total,)](x, index, count, weight, bias, normed, eps, C=channels, BLOCK=block)
    return normed, index, count


def _counted_rows(
    normed: Tensor,
    middle: Tensor,
    rows: int,
    fc1: tuple[Tensor, Tensor | None],
    fc2: tuple[Tensor, Tensor | None],
    scale: Tensor | None,
    index: Tensor,
    count: Tensor,
    out: Tensor,
) -> None:
    """The branch for the first `rows` rows, of which those from `count` on hold anything and are not written anywhere.

    With `tail` joined, for the rows beyond them as well.
    """
    total, channels = normed.shape
    width = middle.shape[1]
    (weight, bias), (last_weight, last_bias) = fc1, fc2
    joined = rows < total and "tail" in tuning.JOINED
    first = middle[:rows]
    if bias is None:
        torch.mm(normed[:rows], weight.t(), out=first)
    else:
        torch.addmm(bias, normed[:rows], weight.t(), out=first)
    if joined:
        _gelu_then_beyond(normed, weight, bias, index, count, middle, rows)
    else:
        pieces = triton.cdiv(width, tuning.GELU_BLOCK)
        gelu_rows[(rows, pieces)](middle, count, rows, width, BLOCK=tuning.GELU_BLOCK)
    last = first @ last_weight.t()
    if joined:
        _scatter_then_beyond(last, middle, last_weight, last_bias, scale, index, count, out)
        return
    scatter_rows[(rows,)](
        last,
        last if last_bias is None else last_bias,
        last if scale is None else scale,
        index,
        count,
        rows,
        out,
        channels,
        BIAS=last_bias is not None,
        SCALE=scale is not None,
        BLOCK=triton.next_power_of_2(channels),
    )


def _gelu_then_beyond(
    a: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, count: Tensor, out: Tensor, rows: int
) -> None:
    """GELU of the first `rows` rows of out (T, D) in place; behind them gelu(a weight^T + bias)."""
    (width, channels), weight = weight.shape, weight.contiguous()
    unseen("dyt.executors.triton.linear", lambda: max(int(count) - rows, 0) * width * channels)
    grid, options = _tail(a)
    gelu_then_linear[grid](
        *(a, weight, weight if bias is None else bias, index, count, out, rows, channels, width),
        BIAS=bias is not None,
        PIECE=tuning.TAIL_PIECE,
        **options,
    )


def _scatter_then_beyond(
    y: Tensor,
    a: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    index: Tensor,
    count: Tensor,
    out: Tensor,
) -> None:
    """out[index] += scale * (y + bias) for the rows of y; for those behind them in a, scale * (a weight^T + bias)."""
    (width, channels), weight = weight.shape, weight.contiguous()
    unseen("dyt.executors.triton.linear", lambda: max(int(count) - len(y), 0) * width * channels)
    grid, options = _tail(a)
    scatter_then_linear[grid](
        *(y, a, weight, weight if bias is None else bias, weight if scale is None else scale),
        *(index, count, out, len(y), channels, width),
        BIAS=bias is not None,
        SCALE=scale is not None,
        BLOCK=triton.next_power_of_2(width),
        TOGETHER=tuning.TAIL_ROWS,
        **options,
    )


def _tail(a: Tensor) -> tuple[tuple[int], dict[str, Any]]:
    """Grid and tiles of the joined kernels."""
    exact = tuning.is_exact(a)
    half = a.element_size() == 2
    rows, columns, depth, warps, stages, resident = (
        (16, 16, 16, 4, 1, 1) if tuning.INTERPRETED else tuning.TAIL if half else tuning.EXACT_TAIL
    )
    tiles = {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "num_warps": warps, "num_stages": stages}
    return (tuning.processors(a.device) * resident,), {**tiles, "PRECISION": "ieee" if exact else "tf32"}


def product(
    a: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    index: Tensor,
    count: Tensor,
    out: Tensor,
    gelu: bool,
    scatter: bool,
    first: int = 0,
    described: bool | None = None,
) -> None:
    """out = scale * gelu(a weight^T + bias) for the first `count` rows of a (T, IN); with `scatter` added at `index`.

    Args:
        first: the row from which on they are computed.
        described: whether tiles are loaded through descriptors; None where the GPU has an engine for it and rows are
            aligned.
    """
    width, channels = weight.shape
    unseen("dyt.executors.triton.linear", lambda: max(int(count) - first, 0) * width * channels)
    processors, exact = tuning.processors(a.device), tuning.is_exact(a)
    weight = weight.contiguous()
    if described is None:
        described = _has_engine(a.device) and channels * a.element_size() % tuning.ALIGNMENT == 0 and not exact
    kernel, given = tuning.exact if exact else tuning.pointers, (a, weight)
    if described:
        kernel = tuning.described
        given = TensorDescriptor.from_tensor(a, [1, 1]), TensorDescriptor.from_tensor(weight, [1, 1])
    kernel[lambda chosen: (processors * chosen["RESIDENT"],)](
        *given,
        weight if bias is None else bias,
        weight if scale is None else scale,
        index,
        count,
        out,
        first,
        triton.next_power_of_2(len(a)),
        channels,
        width,
        BIAS=bias is not None,
        GELU=gelu,
        SCALE=scale is not None,
        SCATTER=scatter,
        ADD=scatter,
        PRECISION="ieee" if exact else "tf32",
    )


def _has_engine(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
