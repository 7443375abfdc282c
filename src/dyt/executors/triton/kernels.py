"""The kernels that multiply. T rows at most, of which the first `count` (read on the device) are computed; C, IN, OUT
channels.

Imports triton, so that only the launches import this file, when the executor is used.
"""

import triton
import triton.language as tl


@triton.jit
def gelu(x, EXACT: tl.constexpr):
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
        total = gelu(total, out.dtype.element_ty == tl.float32)
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
def gelu_then_linear(
    a,
    weight,
    bias,
    index,
    count,
    out,
    first,
    IN,
    OUT,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PIECE: tl.constexpr,
):
    """`gelu_rows` of the first `first` rows of out (T, OUT), then `linear` with GELU for the rows from there on.

    One launch of persistent programs, whose number is of the multiprocessors. The rows of the second part are none in
    most forwards.
    """
    numbers = tl.minimum(tl.load(count), first).to(tl.int64) * OUT
    for piece in range(tl.program_id(0), tl.cdiv(numbers, PIECE), tl.num_programs(0)):
        place = piece * PIECE + tl.arange(0, PIECE)
        value = tl.load(out + place, mask=place < numbers, other=0.0).to(tl.float32)
        value = gelu(value, out.dtype.element_ty == tl.float32)
        tl.store(out + place, value.to(out.dtype.element_ty), mask=place < numbers)
    # fmt: off
    linear(a, weight, bias, bias, index, count, out, first, 0, IN, OUT,
           BIAS, True, False, False, False, PRECISION, ROWS, COLUMNS, DEPTH, 1)
    # fmt: on


@triton.jit
def scatter_then_linear(
    y,
    a,
    weight,
    bias,
    scale,
    index,
    count,
    out,
    first,
    IN,
    OUT,
    BIAS: tl.constexpr,
    SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """`scatter_rows` of the first `first` rows y, TOGETHER at a time, then `linear` added at `index` for those from
    there on; one launch as `gelu_then_linear`."""
    rows = tl.minimum(tl.load(count), first)
    column = tl.arange(0, BLOCK)
    for group in range(tl.program_id(0), tl.cdiv(rows, TOGETHER), tl.num_programs(0)):
        row = group * TOGETHER + tl.arange(0, TOGETHER)
        whole = (row < rows)[:, None] & (column < OUT)[None, :]
        value = tl.load(y + row.to(tl.int64)[:, None] * OUT + column[None, :], mask=whole, other=0.0).to(tl.float32)
        if BIAS:
            value += tl.load(bias + column, mask=column < OUT, other=0.0).to(tl.float32)[None, :]
        if SCALE:
            value *= tl.load(scale + column, mask=column < OUT, other=0.0).to(tl.float32)[None, :]
        token = tl.load(index + row, mask=row < rows, other=0).to(tl.int64)
        place = out + token[:, None] * OUT + column[None, :]
        value += tl.load(place, mask=whole, other=0.0).to(tl.float32)
        tl.store(place, value.to(out.dtype.element_ty), mask=whole)
    # fmt: off
    linear(a, weight, bias, scale, index, count, out, first, 0, IN, OUT,
           BIAS, False, SCALE, True, True, PRECISION, ROWS, COLUMNS, DEPTH, 1)
    # fmt: on
