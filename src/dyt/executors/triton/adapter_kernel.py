"""The adapter's kernel: R rows, C channels. Imports triton, so that only the launches import this file."""

import triton
import triton.language as tl

from dyt.executors.triton.kernels import gelu


@triton.jit
def _token(x, branch, place, mask, RESIDUAL: tl.constexpr):
    """x, or x + branch rounded as the tensor that holds it."""
    token = tl.load(x + place, mask=mask, other=0.0)
    if RESIDUAL:
        token = (token.to(tl.float32) + tl.load(branch + place, mask=mask, other=0.0).to(tl.float32)).to(token.dtype)
    return token


@triton.jit
def adapter(
    x,
    branch,
    down,
    down_bias,
    up,
    up_bias,
    router,
    router_bias,
    after,
    out,
    logits,
    rows,
    size,
    C,
    UNITS,
    WIDTH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROUTED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out = x + up(act(down(x))) and the router's logits of x in float32, in one pass over `rows` tokens x (rows, C).

    With RESIDUAL the tokens are after = x + branch, and are written as well. One program for ROWS tokens, whose hidden
    units (WIDTH >= UNITS) stay in registers. `size` is for the tuning alone.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real, far = row < rows, row.to(tl.int64)
    unit = tl.arange(0, WIDTH)
    used = unit < UNITS
    hidden = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    score = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, C, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        within = depth < C
        here = far[:, None] * C + depth[None, :]
        held = real[:, None] & within[None, :]
        left = _token(x, branch, here, held, RESIDUAL)
        if RESIDUAL:
            tl.store(after + here, left, mask=held)
        right = tl.load(down + unit[None, :] * C + depth[:, None], mask=used[None, :] & within[:, None], other=0.0)
        hidden = tl.dot(left, right, hidden, input_precision=PRECISION)
        if ROUTED:
            by = tl.load(router + depth, mask=within, other=0.0).to(tl.float32)
            score += tl.sum(left.to(tl.float32) * by[None, :], 1)
    hidden += tl.load(down_bias + unit, mask=used, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "relu":  # noqa: SIM108 - decided while it is compiled
        hidden = tl.maximum(hidden, 0.0)
    else:
        hidden = gelu(hidden, out.dtype.element_ty == tl.float32)
    if ROUTED:
        tl.store(logits + row, score + tl.load(router_bias).to(tl.float32), mask=real)
    units = hidden.to(out.dtype.element_ty)
    for start in range(0, C, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < C
        whole = real[:, None] & inside[None, :]
        right = tl.load(up + column[None, :] * UNITS + unit[:, None], mask=inside[None, :] & used[:, None], other=0.0)
        total = tl.dot(units, right, input_precision=PRECISION)
        total += tl.load(up_bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        place = far[:, None] * C + column[None, :]
        total += _token(x, branch, place, whole, RESIDUAL).to(tl.float32)
        tl.store(out + place, total.to(out.dtype.element_ty), mask=whole)
