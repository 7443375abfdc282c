"""The kernels. T rows at most, of which the first `count` (read on the device) are computed; C, IN, OUT channels.

Imports triton, so that only `launch` imports this file, when the executor is used.
"""

import triton
import triton.language as tl


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
def _gelu(x, EXACT: tl.constexpr):
    """GELU by erf; for half precision erf is approximated to 1.5e-7 (Abramowitz and Stegun, 7.1.26): it is faster."""
    if EXACT:
        out = 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
    else:
        z = tl.abs(x) * 0.7071067811865476
        t = 1.0 / (1.0 + 0.3275911 * z)
        tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
        tail = 0.5 * tail * tl.exp(-z * z)
        out = x * tl.where(x < 0, tail, 1.0 - tail)
    return out


@triton.jit
def _finish(
    total,
    row,
    column,
    rows,
    bias,
    scale,
    index,
    out,
    OUT,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    SCALE: tl.constexpr,
    SCATTER: tl.constexpr,
    ADD: tl.constexpr,
):
    """out[r or index[r]] = or += scale * gelu(total + bias), of one tile; no row occurs twice, so no atomics."""
    real, inside = row < rows, column < OUT
    if BIAS:
        total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if GELU:
        total = _gelu(total, out.dtype.element_ty == tl.float32)
    if SCALE:
        total *= tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    target = row.to(tl.int64)
    if SCATTER:
        target = tl.load(index + row, mask=real, other=0).to(tl.int64)
    place = out + target[:, None] * OUT + column[None, :]
    whole = real[:, None] & inside[None, :]
    if ADD:
        total += tl.load(place, mask=whole, other=0.0).to(tl.float32)
    tl.store(place, total.to(out.dtype.element_ty), mask=whole)


@triton.jit
def linear(
    a,
    weight,
    bias,
    scale,
    index,
    count,
    out,
    first,
    size,
    IN,
    OUT,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    SCALE: tl.constexpr,
    SCATTER: tl.constexpr,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    """out[r or index[r]] = or += scale * gelu(a[r] weight^T + bias) for the rows from `first` on: persistent programs
    share out the tiles there are.

    Tiles of the same rows follow one another, so that these rows stay in the cache while the weights pass. RESIDENT
    programs share a multiprocessor, so that one multiplies while another finishes. `size` is for the tuning alone.
    """
    rows = tl.load(count)
    across = tl.cdiv(OUT, COLUMNS)
    tiles = tl.cdiv(tl.maximum(rows - first, 0), ROWS) * across
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = first + (tile // across) * ROWS + tl.arange(0, ROWS)
        column = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
        real, inside = row < rows, column < OUT
        far = row.to(tl.int64)
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for start in range(0, IN, DEPTH):
            depth = start + tl.arange(0, DEPTH)
            within = depth < IN
            left = tl.load(a + far[:, None] * IN + depth[None, :], mask=real[:, None] & within[None, :], other=0.0)
            right = tl.load(
                weight + column[None, :] * IN + depth[:, None], mask=inside[None, :] & within[:, None], other=0.0
            )
            total = tl.dot(left, right, total, input_precision=PRECISION)
        _finish(total, row, column, rows, bias, scale, index, out, OUT, BIAS, GELU, SCALE, SCATTER, ADD)


@triton.jit
def linear_by_descriptor(
    a,
    weight,
    bias,
    scale,
    index,
    count,
    out,
    first,
    size,
    IN,
    OUT,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    SCALE: tl.constexpr,
    SCATTER: tl.constexpr,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    RESIDENT: tl.constexpr,
):
    """The same for tensor descriptors `a` (T, IN) and `weight` (OUT, IN), whose tiles the copy engine of Hopper loads.

    What lies outside a tensor is loaded as 0. Rows from `count` on hold anything; their results are not stored.
    """
    rows = tl.load(count)
    across = tl.cdiv(OUT, COLUMNS)
    tiles = tl.cdiv(tl.maximum(rows - first, 0), ROWS) * across
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        first_row, first_column = first + (tile // across) * ROWS, (tile % across) * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for start in range(0, IN, DEPTH):
            left = a.load([first_row, start])
            right = weight.load([first_column, start])
            total = tl.dot(left, right.T, total, input_precision=PRECISION)
        row, column = first_row + tl.arange(0, ROWS), first_column + tl.arange(0, COLUMNS)
        _finish(total, row, column, rows, bias, scale, index, out, OUT, BIAS, GELU, SCALE, SCATTER, ADD)


@triton.jit
def gelu_rows(x, count, rows, C, BLOCK: tl.constexpr):
    """x[r] = gelu(x[r]) for the first `rows` rows of x (T, C) that are among the `count`; one program for a piece."""
    row = tl.program_id(0).to(tl.int64)
    if row < tl.minimum(tl.load(count), rows):
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < C
        value = tl.load(x + row * C + column, mask=inside, other=0.0).to(tl.float32)
        out = _gelu(value, x.dtype.element_ty == tl.float32)
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


@triton.jit
def adapter(
    x,
    down,
    down_bias,
    up,
    up_bias,
    router,
    router_bias,
    out,
    logits,
    rows,
    size,
    C,
    UNITS,
    WIDTH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROUTED: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out = x + up(act(down(x))) and the router's logits of x in float32, in one pass over `rows` tokens x (rows, C).

    One program for ROWS tokens, whose hidden units (WIDTH >= UNITS) stay in registers. `size` is for the tuning alone.
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
        left = tl.load(x + far[:, None] * C + depth[None, :], mask=real[:, None] & within[None, :], other=0.0)
        right = tl.load(down + unit[None, :] * C + depth[:, None], mask=used[None, :] & within[:, None], other=0.0)
        hidden = tl.dot(left, right, hidden, input_precision=PRECISION)
        if ROUTED:
            by = tl.load(router + depth, mask=within, other=0.0).to(tl.float32)
            score += tl.sum(left.to(tl.float32) * by[None, :], 1)
    hidden += tl.load(down_bias + unit, mask=used, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "relu":  # noqa: SIM108 - decided while it is compiled
        hidden = tl.maximum(hidden, 0.0)
    else:
        hidden = _gelu(hidden, out.dtype.element_ty == tl.float32)
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
        total += tl.load(x + place, mask=whole, other=0.0).to(tl.float32)
        tl.store(out + place, total.to(out.dtype.element_ty), mask=whole)
