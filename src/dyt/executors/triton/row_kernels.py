"""The kernels that move rows: active tokens are found, packed and normalised, and what was computed is written back.

T tokens at most, of which the first `count` rows (read on the device) are used; C channels. Imports triton, so that
only the launches import this file, when the executor is used.
"""

import triton
import triton.language as tl

from dyt.executors.triton.kernels import gelu


@triton.jit
def compact(active, index, count, total, BLOCK: tl.constexpr):
    """index[:count] = the positions of the active ones of `total` tokens, in order; their number into `count`.

    Each program first counts what lies before its tokens, instead of waiting for the others: no atomics, and the order
    is always the same.
    """
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    before = tl.zeros((BLOCK,), dtype=tl.int32)
    for chunk in range(0, program):
        before += tl.load(active + chunk * BLOCK + lane).to(tl.int32)
    start = tl.sum(before)
    token = program * BLOCK + lane
    own = tl.load(active + token, mask=token < total, other=0).to(tl.int32)
    place = start + tl.cumsum(own, 0) - own
    tl.store(index + place, token, mask=own != 0)
    if program == tl.num_programs(0) - 1:
        tl.store(count, start + tl.sum(own))


@triton.jit
def gather_norm(x, index, count, gamma, beta, out, eps, C: tl.constexpr, BLOCK: tl.constexpr):
    """out[r] = LayerNorm(x[index[r]]), one program for each row; statistics in float32."""
    row = tl.program_id(0).to(tl.int64)
    if row < tl.load(count):
        columns = tl.arange(0, BLOCK)
        inside = columns < C
        token = tl.load(index + row).to(tl.int64)
        value = tl.load(x + token * C + columns, mask=inside, other=0.0).to(tl.float32)
        centred = tl.where(inside, value - tl.sum(value) / C, 0.0)
        normed = centred * tl.rsqrt(tl.sum(centred * centred) / C + eps)
        scale = tl.load(gamma + columns, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(beta + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * C + columns, (normed * scale + shift).to(out.dtype.element_ty), mask=inside)


@triton.jit
def pack_norm(
    x,
    active,
    index,
    count,
    gamma,
    beta,
    out,
    eps,
    total,
    C,
    BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
    COUNTED: tl.constexpr,
):
    """`compact` and `gather_norm` in one: a program finds the places of TOGETHER tokens, and fills their rows."""
    first = tl.program_id(0) * TOGETHER
    lane = tl.arange(0, COUNTED)
    before = tl.zeros((COUNTED,), dtype=tl.int32)
    for chunk in range(0, first, COUNTED):
        before += tl.load(active + chunk + lane, mask=chunk + lane < first, other=0).to(tl.int32)
    token = first + tl.arange(0, TOGETHER)
    own = tl.load(active + token, mask=token < total, other=0).to(tl.int32)
    start, used = tl.sum(before), own != 0
    earlier = tl.arange(0, TOGETHER)[None, :] < tl.arange(0, TOGETHER)[:, None]
    place = start + tl.sum(tl.where(earlier, own[None, :], 0), 1)
    tl.store(index + place, token, mask=used)
    if first + TOGETHER >= total:
        tl.store(count, start + tl.sum(own))
    column = tl.arange(0, BLOCK)
    inside = column < C
    whole = used[:, None] & inside[None, :]
    value = tl.load(x + token.to(tl.int64)[:, None] * C + column[None, :], mask=whole, other=0.0).to(tl.float32)
    centred = tl.where(whole, value - (tl.sum(value, 1) / C)[:, None], 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 1) / C + eps)[:, None]
    scale = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
    normed = (normed * scale[None, :] + shift[None, :]).to(out.dtype.element_ty)
    tl.store(out + place.to(tl.int64)[:, None] * C + column[None, :], normed, mask=whole)


@triton.jit
def gelu_rows(x, count, rows, C, BLOCK: tl.constexpr):
    """x[r] = gelu(x[r]) for the first `rows` rows of x (T, C) that are among the `count`; one program for a piece."""
    row = tl.program_id(0).to(tl.int64)
    if row < tl.minimum(tl.load(count), rows):
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < C
        value = tl.load(x + row * C + column, mask=inside, other=0.0).to(tl.float32)
        out = gelu(value, x.dtype.element_ty == tl.float32)
        tl.store(x + row * C + column, out.to(x.dtype.element_ty), mask=inside)


@triton.jit
def scatter_rows(
    y, bias, scale, index, count, rows, out, C, BIAS: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr
):
    """out[index[r]] += scale * (y[r] + bias) for the first `rows` rows of y (T, C) that are among the `count`."""
    row = tl.program_id(0).to(tl.int64)
    if row < tl.minimum(tl.load(count), rows):
        column = tl.arange(0, BLOCK)
        inside = column < C
        value = tl.load(y + row * C + column, mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            value += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        if SCALE:
            value *= tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)
        place = out + tl.load(index + row).to(tl.int64) * C + column
        value += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        tl.store(place, value.to(out.dtype.element_ty), mask=inside)
