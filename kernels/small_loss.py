"""The second launch of small problems: loss and gradients from the partial distances of the first."""

import triton
import triton.language as tl

from fastmmd.kernels.arithmetic import (
    bandwidth_and_tolerance,
    coefficient_factors,
    count,
    dynamic_coefficients,
    mixtures,
    product,
    rate_and_slope,
    rounded,
    term_values,
    weight_of_pair,
)
from fastmmd.kernels.finish import store_loss_and_statistics


@triton.jit(do_not_specialize=["n_source", "n_target"])
def small_loss(
    source_ptrs,  # L times [n_source, dims[l]], fp16, bf16, fp32 or fp64; unit stride along features
    target_ptrs,  # L times [n_target, dims[l]], likewise
    source_strides,  # [L]: elements between rows
    target_strides,
    dims,  # [L]: features
    first_parts,  # [1 + L]: a layer's first part of the distances, and the number of parts of all
    first_chunks,  # [1 + L]: a layer's first chunk of the gradients, and the number of chunks of all
    distances_ptr,  # [parts, side, side] DTYPE, side = tiles * TILE
    distance_sums_ptr,  # [parts, tiles * (tiles // 2 + 1)] fp64
    given_bandwidths_ptr,  # [L] fp64, or None
    numbers,
    partial_sums_ptr,  # [tiles, 1 + L] fp64
    arrived_ptr,  # [] int32: programs that have written their partial sums
    loss_ptr,  # [] DTYPE
    statistics_ptr,  # [1 + 2 L] DTYPE
    grad_source_ptrs,  # L times [n_source, dims[l]] DTYPE, or None where not needed
    grad_target_ptrs,  # L times [n_target, dims[l]] DTYPE, or None
    n_source,
    n_target,
    LAYERS: tl.constexpr,
    CLAMP: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
    GRADIENT: tl.constexpr,
    OVERLAP: tl.constexpr,  # this launch begins while the first one ends
):
    L: tl.constexpr = count(LAYERS)
    i, chunk = tl.program_id(0), tl.program_id(1)
    source_tiles = tl.cdiv(n_source, TILE)
    tiles = source_tiles + tl.cdiv(n_target, TILE)
    row_is_source = i < source_tiles
    row = tl.arange(0, TILE)
    first_row = tl.where(row_is_source, i, i - source_tiles) * TILE
    in_rows = first_row + row < tl.where(row_is_source, n_source, n_target)
    side = tiles * TILE
    n = n_source + n_target
    layer = tl.zeros((), tl.int32)  # of this program's gradient
    for l in tl.static_range(1, L):
        layer += (chunk >= first_chunks[l]).to(tl.int32)
    feature = tl.arange(0, CHUNK)
    for l in tl.static_range(L):
        if layer == l:
            feature += (chunk - first_chunks[l]) * CHUNK
    b_origin = tl.zeros((1, CHUNK), DTYPE)
    if GRADIENT:
        b_x = _rows(
            source_ptrs,
            target_ptrs,
            source_strides,
            target_strides,
            dims,
            layer,
            row_is_source,
            first_row,
            in_rows,
            feature,
            DTYPE,
        )
        b_origin = _mean_row(b_x, in_rows, DTYPE)
        b_x = rounded(tl.where(in_rows[:, None], b_x - b_origin, 0.0), FORMAT)
        b_weighted = tl.zeros((TILE, CHUNK), DTYPE)
        b_row_sums = tl.zeros((TILE,), DTYPE)

    if OVERLAP:
        tl.extra.cuda.gdc_wait()  # for the first launch: all before depends on the inputs alone
    bandwidths, rates, shifts, slopes = _bandwidths(
        distance_sums_ptr, first_parts, tiles, given_bandwidths_ptr, numbers, n, DTYPE, LAYERS
    )
    same_weight = weight_of_pair(row_is_source, row_is_source, numbers)
    cross_weight = weight_of_pair(row_is_source, row_is_source == 0, numbers)
    same_joints, same_marginals = coefficient_factors(same_weight, slopes, numbers, DTYPE, LAYERS)
    cross_joints, cross_marginals = coefficient_factors(cross_weight, slopes, numbers, DTYPE, LAYERS)

    b_sums = ()
    for _ in tl.static_range(1 + L):
        b_sums = b_sums + (tl.zeros((TILE,), tl.float64),)

    for j in range(0, tiles):
        column_is_source = j < source_tiles
        same = row_is_source == column_is_source
        first_column = tl.where(column_is_source, j, j - source_tiles) * TILE
        in_columns = first_column + row < tl.where(column_is_source, n_source, n_target)
        pair = in_rows[:, None] & in_columns[None, :] & ((row[:, None] != row[None, :]) | (i != j))
        pair_offsets = (i * TILE + row)[:, None] * side + (j * TILE + row)[None, :]
        b_exponents = ()
        for l in tl.static_range(L):
            b_squared = tl.zeros((TILE, TILE), DTYPE)
            for part in range(first_parts[l], first_parts[l + 1]):
                b_squared += tl.load(distances_ptr + tl.cast(part, tl.int64) * side * side + pair_offsets)
            b_exponent = tl.minimum(shifts[l] - rates[l] * b_squared, 0.0, propagate_nan=tl.PropagateNan.ALL)
            b_exponents = b_exponents + (tl.where(pair, b_exponent, float("-inf")),)
        b_kernels, b_slopes = mixtures(b_exponents, LAYERS)

        if chunk == 0:
            weight = tl.where(same, same_weight, cross_weight)
            b_new_sums = ()
            for term in tl.static_range(1 + L):
                b_values = tl.sum(term_values(term, b_kernels, LAYERS), axis=1)
                b_new_sums = b_new_sums + (b_sums[term] + weight * b_values.to(tl.float64),)
            b_sums = b_new_sums

        if GRADIENT:
            joints, marginals = (), ()
            for l in tl.static_range(L):
                joints = joints + (tl.where(same, same_joints[l], cross_joints[l]),)
                marginals = marginals + (tl.where(same, same_marginals[l], cross_marginals[l]),)
            b_c = dynamic_coefficients(layer, b_kernels, b_slopes, joints, marginals, LAYERS)
            b_c = rounded(b_c, FORMAT)
            b_y = _rows(
                source_ptrs,
                target_ptrs,
                source_strides,
                target_strides,
                dims,
                layer,
                column_is_source,
                first_column,
                in_columns,
                feature,
                DTYPE,
            )
            b_y = rounded(tl.where(in_columns[:, None], b_y - b_origin, 0.0), FORMAT)
            b_weighted = product(b_c, b_y, b_weighted, FORMAT)
            b_row_sums += tl.sum(b_c, axis=1)

    if GRADIENT:
        b_gradient = 4 * (b_weighted - b_row_sums[:, None] * b_x)
        out_row = (first_row + row).to(tl.int64)[:, None]
        for l in tl.static_range(L):
            if layer == l:
                mask = in_rows[:, None] & (feature < dims[l])[None, :]
                if row_is_source:
                    if grad_source_ptrs[l] is not None:
                        tl.store(grad_source_ptrs[l] + out_row * dims[l] + feature[None, :], b_gradient, mask=mask)
                else:
                    if grad_target_ptrs[l] is not None:
                        tl.store(grad_target_ptrs[l] + out_row * dims[l] + feature[None, :], b_gradient, mask=mask)

    if chunk == 0:
        for term in tl.static_range(1 + L):
            tl.store(partial_sums_ptr + i * (1 + L) + term, tl.sum(b_sums[term]))
        # Whoever arrives last adds up, in an order that does not depend on who that is.
        tl.debug_barrier()
        if tl.atomic_add(arrived_ptr, 1, sem="acq_rel") == tiles - 1:
            tl.debug_barrier()
            store_loss_and_statistics(
                partial_sums_ptr, tiles, bandwidths, numbers, loss_ptr, statistics_ptr, None, CLAMP, 16, LAYERS
            )


@triton.jit
def _bandwidths(
    distance_sums_ptr,  # [parts, pairs] fp64
    first_parts,
    tiles,
    given_bandwidths_ptr,  # [L] fp64, or None
    numbers,
    n,
    DTYPE: tl.constexpr,
    LAYERS: tl.constexpr,
):
    """Bandwidths, rates, shifts and slopes (`rate_and_slope`): four tuples of L numbers; the rates and shifts in DTYPE,
    the others fp64."""
    pairs = tiles * (tiles // 2 + 1)
    bandwidths, rates, shifts, slopes = (), (), (), ()
    for l in tl.static_range(count(LAYERS)):
        b_sums = tl.zeros((128,), tl.float64)
        for start in range(first_parts[l] * pairs, first_parts[l + 1] * pairs, 128):
            index = start + tl.arange(0, 128)
            b_sums += tl.load(distance_sums_ptr + index, mask=index < first_parts[l + 1] * pairs, other=0.0)
        mean = tl.sum(b_sums) / (n.to(tl.float64) * (n - 1))
        bandwidth, tolerance = bandwidth_and_tolerance(l, mean, given_bandwidths_ptr, numbers, DTYPE, LAYERS)
        bandwidths = bandwidths + (bandwidth,)
        rate, shift, slope = rate_and_slope(l, bandwidth, tolerance, 0.0, DTYPE, LAYERS)
        rates, shifts, slopes = rates + (rate.to(DTYPE),), shifts + (shift.to(DTYPE),), slopes + (slope,)
    return bandwidths, rates, shifts, slopes


@triton.jit
def _rows(
    source_ptrs,  # L times [n_source, dims[l]]
    target_ptrs,  # L times [n_target, dims[l]]
    source_strides,
    target_strides,
    dims,
    layer,
    is_source,
    first_row,
    present,
    feature,
    DTYPE: tl.constexpr,
):
    """[rows, features] of a layer that is known at run time only; 0 outside."""
    row = first_row.to(tl.int64) + tl.arange(0, present.shape[0])
    b_z = tl.zeros((present.shape[0], feature.shape[0]), DTYPE)
    for l in tl.static_range(len(dims)):
        if layer == l:
            mask = present[:, None] & (feature < dims[l])[None, :]
            stride = tl.where(is_source, source_strides[l], target_strides[l])
            p_z = tl.where(is_source, source_ptrs[l], target_ptrs[l]) + row[:, None] * stride + feature[None, :]
            b_z = tl.load(p_z, mask=mask, other=0.0).to(DTYPE)
    return b_z


@triton.jit
def _mean_row(b_z, present, DTYPE: tl.constexpr):
    """[1, features]: the mean of the rows that are present, exact if they are equal."""
    b_first = tl.sum(tl.where((tl.arange(0, b_z.shape[0]) == 0)[:, None], b_z, 0.0), axis=0)[None, :]
    b_shifts = tl.where(present[:, None], b_z - b_first, 0.0)
    rows = tl.sum(present.to(tl.int32)).to(DTYPE)
    return b_first + (tl.sum(b_shifts, axis=0) / rows)[None, :]
