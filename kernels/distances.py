"""The first launch of small problems: squared distances of tile pairs, split over the features to fill the GPU."""

import triton
import triton.language as tl

from fastmmd.kernels.arithmetic import product, rounded


@triton.jit(do_not_specialize=["n_source", "n_target"])
def partial_distances(
    sources,  # tuple of pointers, one a layer
    targets,
    source_strides,  # of rows; features are contiguous
    target_strides,
    dims,
    first_parts,  # [1 + L]: a layer's first part, and the number of parts of all
    distances,  # [parts, side, side] fp32 or fp64
    distance_sums,  # [parts, pairs] fp64, over ordered pairs
    arrived,  # int32; set to 0 for the second launch
    n_source,
    n_target,
    part_features,  # features in a part, a multiple of FEATURES
    L: tl.constexpr,
    TILE: tl.constexpr,
    FEATURES: tl.constexpr,
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    i, offset, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    source_tiles = tl.cdiv(n_source, TILE)
    tiles = source_tiles + tl.cdiv(n_target, TILE)
    if (i + offset + part) == 0:
        tl.store(arrived, 0)
    j = (i + offset) % tiles
    total = tl.zeros((), tl.float64)
    if (2 * offset != tiles) | (i < j):  # an even number of tiles meets the farthest ones twice
        for l in tl.static_range(L):
            if (part >= first_parts[l]) & (part < first_parts[l + 1]):
                begin = (part - first_parts[l]) * part_features
                end = tl.minimum(begin + part_features, dims[l])
                x, x_stride, x_left = _tile_of(
                    sources[l], targets[l], source_strides[l], target_strides[l], n_source, n_target, i, TILE
                )
                y, y_stride, y_left = _tile_of(
                    sources[l], targets[l], source_strides[l], target_strides[l], n_source, n_target, j, TILE
                )
                tile = _distances(
                    x, y, x_stride, y_stride, x_left, y_left, i == j, begin, end, TILE, FEATURES, FORMAT, DTYPE
                )
                row = tl.arange(0, TILE)
                side = tiles * TILE
                corner = distances + part.to(tl.int64) * side * side
                tl.store(corner + (i * TILE + row)[:, None] * side + (j * TILE + row)[None, :], tile)
                if i != j:  # written twice, so that every program reads whole rows
                    tl.store(corner + (j * TILE + row)[:, None] * side + (i * TILE + row)[None, :], tl.trans(tile))
                total += tl.sum(tile).to(tl.float64) * tl.where(i == j, 1, 2)
    pairs = tl.num_programs(0) * tl.num_programs(1)
    tl.store(distance_sums + part * pairs + i * tl.num_programs(1) + offset, total)


@triton.jit
def _tile_of(source, target, source_stride, target_stride, n_source, n_target, tile, TILE: tl.constexpr):
    """A pointer to a tile's first row, the row stride, and the rows from there to the domain's last."""
    source_tiles = tl.cdiv(n_source, TILE)
    is_source = tile < source_tiles
    first = tl.where(is_source, tile, tile - source_tiles) * TILE
    stride = tl.where(is_source, source_stride, target_stride)
    rows = tl.where(is_source, source, target) + first.to(tl.int64) * stride
    return rows, stride, tl.where(is_source, n_source, n_target) - first


@triton.jit
def _distances(
    x,  # pointer to the first row of a tile
    y,
    x_stride,
    y_stride,
    x_left,  # rows from there to the domain's last
    y_left,
    same,  # x and y are the same rows
    begin,
    end,
    TILE: tl.constexpr,
    FEATURES: tl.constexpr,
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """[TILE, TILE]: what features begin..end contribute to the squared distances; 0 for absent pairs."""
    row = tl.arange(0, TILE)
    in_x, in_y = row < x_left, row < y_left
    count = (tl.minimum(x_left, TILE) + tl.minimum(y_left, TILE)).to(DTYPE)
    inner = tl.zeros((TILE, TILE), DTYPE)
    x_norms = tl.zeros((TILE,), DTYPE)
    y_norms = tl.zeros((TILE,), DTYPE)
    for start in range(begin, end, FEATURES):
        column = start + tl.arange(0, FEATURES)
        present = column < end
        x_mask, y_mask = in_x[:, None] & present[None, :], in_y[:, None] & present[None, :]
        # The mean difference from one row is added to it, so that equal rows become exactly 0.
        origin = tl.load(x + column, mask=present, other=0.0).to(DTYPE)[None, :]
        u = tl.load(x + row.to(tl.int64)[:, None] * x_stride + column[None, :], mask=x_mask, other=0.0).to(DTYPE)
        v = tl.load(y + row.to(tl.int64)[:, None] * y_stride + column[None, :], mask=y_mask, other=0.0).to(DTYPE)
        shift = tl.sum(tl.where(x_mask, u - origin, 0.0), axis=0) + tl.sum(tl.where(y_mask, v - origin, 0.0), axis=0)
        mean = origin + (shift / count)[None, :]
        u = rounded(tl.where(x_mask, u - mean, 0.0), FORMAT)
        v = rounded(tl.where(y_mask, v - mean, 0.0), FORMAT)
        inner = product(u, tl.trans(v), inner, FORMAT)
        x_norms += tl.sum(u * u, axis=1)
        y_norms += tl.sum(v * v, axis=1)
    squared = x_norms[:, None] + y_norms[None, :] - 2 * inner
    pair = in_x[:, None] & in_y[None, :] & ((row[:, None] != row[None, :]) | (same == 0))
    return tl.where(pair, squared, 0.0)
