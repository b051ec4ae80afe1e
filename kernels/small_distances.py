"""The first launch of small problems: squared distances of tile pairs, split over the features to fill the GPU."""

import triton
import triton.language as tl

from fastmmd.kernels.arithmetic import product, rounded


@triton.jit(do_not_specialize=["n_source", "n_target"])
def small_distances(
    source_ptrs,  # L times [n_source, dims[l]], fp16, bf16, fp32 or fp64; unit stride along features
    target_ptrs,  # L times [n_target, dims[l]], likewise
    source_strides,  # [L]: elements between rows
    target_strides,
    dims,  # [L]: features
    first_parts,  # [1 + L]: a layer's first part, and the number of parts of all
    distances_ptr,  # [parts, side, side] DTYPE, side = tiles * TILE
    distance_sums_ptr,  # [parts, tiles * (tiles // 2 + 1)] fp64, over ordered pairs
    arrived_ptr,  # [] int32; set to 0 for the second launch
    n_source,
    n_target,
    part_features,  # features in a part, a multiple of FEATURES
    L: tl.constexpr,
    TILE: tl.constexpr,
    FEATURES: tl.constexpr,
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
    OVERLAP: tl.constexpr,  # the second launch begins while this one ends
):
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    i, offset, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    source_tiles = tl.cdiv(n_source, TILE)
    tiles = source_tiles + tl.cdiv(n_target, TILE)
    if (i + offset + part) == 0:
        tl.store(arrived_ptr, 0)
    j = (i + offset) % tiles
    total = tl.zeros((), tl.float64)
    if (2 * offset != tiles) | (i < j):  # an even number of tiles meets the farthest ones twice
        for l in tl.static_range(L):
            if (part >= first_parts[l]) & (part < first_parts[l + 1]):
                begin = (part - first_parts[l]) * part_features
                end = tl.minimum(begin + part_features, dims[l])
                x_ptr, x_stride, x_rows = _tile(
                    source_ptrs[l], target_ptrs[l], source_strides[l], target_strides[l], n_source, n_target, i, TILE
                )
                y_ptr, y_stride, y_rows = _tile(
                    source_ptrs[l], target_ptrs[l], source_strides[l], target_strides[l], n_source, n_target, j, TILE
                )
                b_distances = _distances(
                    x_ptr, y_ptr, x_stride, y_stride, x_rows, y_rows, i == j, begin, end, TILE, FEATURES, FORMAT, DTYPE
                )
                row = tl.arange(0, TILE)
                side = tiles * TILE
                part_ptr = distances_ptr + part.to(tl.int64) * side * side
                tl.store(part_ptr + (i * TILE + row)[:, None] * side + (j * TILE + row)[None, :], b_distances)
                if i != j:  # written twice, so that every program reads whole rows
                    p_mirror = part_ptr + (j * TILE + row)[:, None] * side + (i * TILE + row)[None, :]
                    tl.store(p_mirror, tl.trans(b_distances))
                total += tl.sum(b_distances).to(tl.float64) * tl.where(i == j, 1, 2)
    tile_pairs = tl.num_programs(0) * tl.num_programs(1)
    tl.store(distance_sums_ptr + part * tile_pairs + i * tl.num_programs(1) + offset, total)


@triton.jit
def _tile(
    source_ptr,  # [n_source, d]
    target_ptr,  # [n_target, d]
    source_stride,
    target_stride,
    n_source,
    n_target,
    tile,
    TILE: tl.constexpr,
):
    """A pointer to a tile's first row, the row stride, and the rows from there to the domain's last."""
    source_tiles = tl.cdiv(n_source, TILE)
    is_source = tile < source_tiles
    first = tl.where(is_source, tile, tile - source_tiles) * TILE
    stride = tl.where(is_source, source_stride, target_stride)
    rows_ptr = tl.where(is_source, source_ptr, target_ptr) + first.to(tl.int64) * stride
    return rows_ptr, stride, tl.where(is_source, n_source, n_target) - first


@triton.jit
def _distances(
    x_ptr,  # [x_rows, d]: a tile's first row and all that follow in its domain
    y_ptr,  # [y_rows, d]
    x_stride,
    y_stride,
    x_rows,
    y_rows,
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
    in_x, in_y = row < x_rows, row < y_rows
    rows = (tl.minimum(x_rows, TILE) + tl.minimum(y_rows, TILE)).to(DTYPE)
    b_inner = tl.zeros((TILE, TILE), DTYPE)
    b_x_norms = tl.zeros((TILE,), DTYPE)
    b_y_norms = tl.zeros((TILE,), DTYPE)
    for start in range(begin, end, FEATURES):
        feature = start + tl.arange(0, FEATURES)
        present = feature < end
        x_mask, y_mask = in_x[:, None] & present[None, :], in_y[:, None] & present[None, :]
        # The mean difference from one row is added to it, so that equal rows become exactly 0.
        b_origin = tl.load(x_ptr + feature, mask=present, other=0.0).to(DTYPE)[None, :]
        p_x = x_ptr + row.to(tl.int64)[:, None] * x_stride + feature[None, :]
        b_x = tl.load(p_x, mask=x_mask, other=0.0).to(DTYPE)
        p_y = y_ptr + row.to(tl.int64)[:, None] * y_stride + feature[None, :]
        b_y = tl.load(p_y, mask=y_mask, other=0.0).to(DTYPE)
        b_x_shifts = tl.sum(tl.where(x_mask, b_x - b_origin, 0.0), axis=0)
        b_y_shifts = tl.sum(tl.where(y_mask, b_y - b_origin, 0.0), axis=0)
        b_mean = b_origin + ((b_x_shifts + b_y_shifts) / rows)[None, :]
        b_x = rounded(tl.where(x_mask, b_x - b_mean, 0.0), FORMAT)
        b_y = rounded(tl.where(y_mask, b_y - b_mean, 0.0), FORMAT)
        b_inner = product(b_x, tl.trans(b_y), b_inner, FORMAT)
        b_x_norms += tl.sum(b_x * b_x, axis=1)
        b_y_norms += tl.sum(b_y * b_y, axis=1)
    b_squared = b_x_norms[:, None] + b_y_norms[None, :] - 2 * b_inner
    pair = in_x[:, None] & in_y[None, :] & ((row[:, None] != row[None, :]) | (same == 0))
    return tl.where(pair, b_squared, 0.0)
