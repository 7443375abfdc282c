"""The kernels. T rows at most, of which the first `count` (read on the device) are computed; C, IN, OUT channels.

Imports triton, so that only `launch` imports this file, when the executor is used.
"""

import triton
import triton.language as tl


@triton.jit
def gather_norm(x, index, count, gamma, beta, out, eps, C: tl.constexpr, BLOCK: tl.constexpr):
    """out[r] = LayerNorm(x[index[r]]), one program for each row; statistics in float32."""
    row = tl.program_id(0).to(tl.int64)
    if row < tl.load(count):
        columns = tl.arange(0, BLOCK)
        inside = columns < C
        token = tl.load(index + row)
        value = tl.load(x + token * C + columns, mask=inside, other=0.0).to(tl.float32)
        centred = tl.where(inside, value - tl.sum(value) / C, 0.0)
        normed = centred * tl.rsqrt(tl.sum(centred * centred) / C + eps)
        scale = tl.load(gamma + columns, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(beta + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * C + columns, (normed * scale + shift).to(out.dtype.element_ty), mask=inside)


@triton.jit
def linear(
    a,
    weight,
    bias,
    scale,
    index,
    count,
    out,
    programs,
    size,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    SCALE: tl.constexpr,
    SCATTER: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out[r or index[r]] = scale * gelu(a[r] weight^T + bias): persistent programs that share out the tiles there are.

    Tiles of the same rows follow one another, so that these rows stay in the cache while the weights pass. `size` is
    for the tuning alone.
    """
    rows = tl.load(count)
    across = tl.cdiv(OUT, COLUMNS)
    tiles = tl.cdiv(rows, ROWS) * across
    for tile in range(tl.program_id(0), tiles, programs):
        row = (tile // across) * ROWS + tl.arange(0, ROWS)
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
        if BIAS:
            total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        if GELU:
            total = 0.5 * total * (1.0 + tl.math.erf(total * 0.7071067811865476))
        if SCALE:
            total *= tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        target = far
        if SCATTER:
            target = tl.load(index + far, mask=real, other=0)
        tl.store(
            out + target[:, None] * OUT + column[None, :],
            total.to(out.dtype.element_ty),
            mask=real[:, None] & inside[None, :],
        )
