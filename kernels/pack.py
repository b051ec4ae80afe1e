"""For many rows: one centred copy of the pooled rows per layer, with norms and bandwidths, in three launches.

The copy holds the source's rows, then the target's, each padded to whole tiles, so that every tile has one domain and
one weight. It is rounded to the products' format, and norms are those of the rounded rows. Padding is 0.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmmd.call import Call
from fastmmd.kernels.arithmetic import (
    bandwidth_and_tolerance,
    coefficient_factors,
    count,
    lost_width,
    rate_and_slope,
    rounded,
    weight_of_pair,
)
from fastmmd.kernels.launch import launch
from fastmmd.kernels.plan import TRITON_DTYPE, Plan

MAX_GROUPS = 32  # of rows, each summed by one program
ROWS = 64  # a program copies; a power of 2, as tiles are
COLUMNS = 64  # of the copy, features at first, that a program takes at a time


class Packed(NamedTuple):
    """
    rows: per layer ``[padded rows, width]``; past its d features: 0, or first a column of ones.
    transposed: per layer ``[width, padded rows]``, the same; None where not asked for.
    exponents: per layer ``[padded rows]``, fp32 or fp64: a pair's base-2 exponent in the broadest Gaussian is the sum
        of its rows' and twice the rate times their inner product (`arithmetic.exponents`); padding has -inf.
    bandwidths: ``[3, L]`` fp64: bandwidths, twice the rates, slopes (`arithmetic.rate_and_slope`).
    weights: ``[3]`` fp64: of a pair in each region (`arithmetic.weight_of_pair`).
    factors: ``[3, L, 2]``, fp32 or fp64: what coefficients in a region share (`arithmetic.coefficient_factors`).
    source_rows: padded rows of the source: where the target begins.
    """

    rows: list[Tensor]
    transposed: list[Tensor] | list[None]
    exponents: list[Tensor]
    bandwidths: Tensor
    weights: Tensor
    factors: Tensor
    source_rows: int


@triton.jit(do_not_specialize=["n_source", "n_target"])
def column_sums(
    source_ptrs,  # L times [n_source, dims[l]], fp16, bf16, fp32 or fp64; unit stride along features
    target_ptrs,  # L times [n_target, dims[l]], likewise
    source_strides,  # [L]: elements between rows
    target_strides,
    dims,  # [L]: features
    first_chunks,  # [1 + L]: a layer's first chunk of COLUMNS features, and the number of chunks of all
    sums_ptr,  # [GROUPS, chunks, COLUMNS] DTYPE: of the rows' differences from the first one
    n_source,
    n_target,
    L: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    chunk, group = tl.program_id(0), tl.program_id(1)
    row, lane = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    for l in tl.static_range(L):
        if (chunk >= first_chunks[l]) & (chunk < first_chunks[l + 1]):
            feature = (chunk - first_chunks[l]) * COLUMNS + lane
            present = feature < dims[l]
            b_origin = tl.load(source_ptrs[l] + feature, mask=present, other=0.0).to(DTYPE)[None, :]
            b_total = tl.zeros((ROWS, COLUMNS), DTYPE)
            for start in range(group * ROWS, n_source, GROUPS * ROWS):
                mask = ((start + row) < n_source)[:, None] & present[None, :]
                offsets = (start + row).to(tl.int64)[:, None] * source_strides[l] + feature[None, :]
                b_x = tl.load(source_ptrs[l] + offsets, mask=mask, other=0.0).to(DTYPE)
                b_total += tl.where(mask, b_x - b_origin, 0.0)
            for start in range(group * ROWS, n_target, GROUPS * ROWS):
                mask = ((start + row) < n_target)[:, None] & present[None, :]
                offsets = (start + row).to(tl.int64)[:, None] * target_strides[l] + feature[None, :]
                b_x = tl.load(target_ptrs[l] + offsets, mask=mask, other=0.0).to(DTYPE)
                b_total += tl.where(mask, b_x - b_origin, 0.0)
            tl.store(sums_ptr + (group * tl.num_programs(0) + chunk) * COLUMNS + lane, tl.sum(b_total, axis=0))


@triton.jit(do_not_specialize=["n_source", "n_target", "source_tiles"])
def centre(
    source_ptrs,  # L times [n_source, dims[l]], fp16, bf16, fp32 or fp64; unit stride along features
    target_ptrs,  # L times [n_target, dims[l]], likewise
    source_strides,  # [L]: elements between rows
    target_strides,
    dims,  # [L]: features
    widths,  # [L]: columns of the copy
    first_chunks,  # [1 + L], of column_sums
    sums_ptr,  # [GROUPS, chunks, COLUMNS] DTYPE, from column_sums
    packed_ptrs,  # L times [padded rows, widths[l]] DTYPE, or bf16
    transposed_ptrs,  # L times [widths[l], padded rows], likewise; or None
    norms_ptrs,  # L times [padded rows] DTYPE
    norm_sums_ptr,  # [L, row tiles] fp64
    n_source,
    n_target,
    source_tiles,
    L: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DTYPE: tl.constexpr,
    FORMAT: tl.constexpr,
    ONES: tl.constexpr,  # a column of ones follows the features
):
    tile, layer = tl.program_id(0), tl.program_id(1)
    is_source = tile < source_tiles
    first = tl.where(is_source, tile, tile - source_tiles) * ROWS
    row = first + tl.arange(0, ROWS)
    in_rows = row < tl.where(is_source, n_source, n_target)
    packed_row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    group = tl.arange(0, GROUPS)[:, None]
    chunks = first_chunks[L]
    for l in tl.static_range(L):
        if layer == l:
            b_norms = tl.zeros((ROWS,), DTYPE)
            for start in range(0, widths[l], COLUMNS):
                column = start + tl.arange(0, COLUMNS)
                present = column < dims[l]
                mask = in_rows[:, None] & present[None, :]
                stride = tl.where(is_source, source_strides[l], target_strides[l])
                input_ptr = tl.where(is_source, source_ptrs[l], target_ptrs[l])
                p_z = input_ptr + row.to(tl.int64)[:, None] * stride + column[None, :]
                b_z = tl.load(p_z, mask=mask, other=0.0).to(DTYPE)
                b_origin = tl.load(source_ptrs[l] + column, mask=present, other=0.0).to(DTYPE)
                p_sums = sums_ptr + ((group * chunks + first_chunks[l]) * COLUMNS + column[None, :])
                b_total = tl.sum(tl.load(p_sums, mask=present[None, :] & (group >= 0), other=0.0), axis=0)
                b_mean = (b_origin + b_total / (n_source + n_target).to(DTYPE))[None, :]
                b_z = rounded(tl.where(mask, b_z - b_mean, 0.0), FORMAT)
                b_norms += tl.sum(b_z * b_z, axis=1)
                if ONES:
                    b_z = tl.where(in_rows[:, None] & (column == dims[l])[None, :], 1.0, b_z)
                p_packed = packed_ptrs[l] + packed_row[:, None] * widths[l] + column[None, :]
                inside = (column < widths[l])[None, :] & (packed_row >= 0)[:, None]
                b_stored = b_z.to(packed_ptrs[l].dtype.element_ty)
                tl.store(p_packed, b_stored, mask=inside)
                if transposed_ptrs[l] is not None:
                    # Here, where the tile is in registers, and not by a copy of its own that reads all rows again.
                    padded_rows = tl.num_programs(0) * ROWS
                    p_transposed = transposed_ptrs[l] + column.to(tl.int64)[:, None] * padded_rows + packed_row[None, :]
                    tl.store(p_transposed, tl.trans(b_stored), mask=tl.trans(inside))
            tl.store(norms_ptrs[l] + packed_row, b_norms)
            tl.store(norm_sums_ptr + l * tl.num_programs(0) + tile, tl.sum(b_norms.to(tl.float64)))


@triton.jit(do_not_specialize=["n_source", "n_target", "source_tiles"])
def find_bandwidths(
    norm_sums_ptr,  # [L, row tiles] fp64
    given_bandwidths_ptr,  # [L] fp64, or None
    numbers,
    exponents_ptrs,  # L times [padded rows] DTYPE: squared norms in, their shares of the exponents out
    bandwidths_ptr,  # [3, L] fp64: bandwidths, twice the rates, slopes
    weights_ptr,  # [3] fp64
    factors_ptr,  # [3, L, 2] DTYPE
    n_source,
    n_target,
    source_tiles,
    LAYERS: tl.constexpr,
    ROWS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    tile, tiles = tl.program_id(0), tl.num_programs(0)
    L: tl.constexpr = count(LAYERS)
    is_source = tile < source_tiles
    first = tl.where(is_source, tile, tile - source_tiles) * ROWS
    in_rows = first + tl.arange(0, ROWS) < tl.where(is_source, n_source, n_target)
    slopes = ()
    for l in tl.static_range(L):
        b_sums = tl.zeros((128,), tl.float64)
        for start in range(0, tiles, 128):
            other = start + tl.arange(0, 128)
            b_sums += tl.load(norm_sums_ptr + l * tiles + other, mask=other < tiles, other=0.0)
        # Centred rows: the mean of ||z_i - z_j||^2 over i != j is 2 sum_i ||z_i||^2 / (N - 1).
        mean = 2 * tl.sum(b_sums) / (n_source + n_target - 1).to(tl.float64)
        bandwidth, tolerance = bandwidth_and_tolerance(l, mean, given_bandwidths_ptr, numbers, DTYPE, LAYERS)
        # Distances from products know nothing below the tolerance; the rate times any norm stays finite.
        narrowest = lost_width(tolerance)
        rate, shift, slope = rate_and_slope(l, bandwidth, tolerance, narrowest, DTYPE, LAYERS)
        p_exponents = exponents_ptrs[l] + tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
        b_exponents = 0.5 * shift.to(DTYPE) - rate.to(DTYPE) * tl.load(p_exponents)
        # A row of padding is infinitely far from all others, so that no pair of it counts.
        tl.store(p_exponents, tl.where(in_rows, b_exponents, float("-inf")))
        if tile == 0:
            tl.store(bandwidths_ptr + l, bandwidth)
            tl.store(bandwidths_ptr + L + l, 2 * rate)
            tl.store(bandwidths_ptr + 2 * L + l, slope)
        slopes = slopes + (slope,)
    # Once here, since GPUs for graphics do fp64 at a 64th of the rate of fp32.
    if tile == 0:
        for region in tl.static_range(3):
            pair_weight = weight_of_pair(region != 1, region == 0, numbers)
            tl.store(weights_ptr + region, pair_weight)
            joints, marginals = coefficient_factors(pair_weight, slopes, numbers, DTYPE, LAYERS)
            for l in tl.static_range(L):
                tl.store(factors_ptr + (region * L + l) * 2, joints[l])
                tl.store(factors_ptr + (region * L + l) * 2 + 1, marginals[l])


def pack(
    call: Call,
    plan: Plan,
    *,
    format: str,
    widths: tuple[int, ...],
    tile: int,
    ones: bool = False,
    transposed: bool = False,
) -> Packed:
    """`widths`: columns of each layer's copy, at least d, and one more for `ones`; `tile`: rows of a tile;
    `transposed`: whether there is a transposed copy too."""
    problem, device, dtype, dims, layers = call.problem, call.device, call.dtype, call.dims, len(call.sources)
    n_source, n_target = problem.n_source, problem.n_target
    multiple = max(ROWS, tile)
    source_rows, target_rows = (triton.cdiv(n, multiple) * multiple for n in (n_source, n_target))
    tiles = (source_rows + target_rows) // ROWS
    first_chunks = (0, *accumulate([triton.cdiv(d, COLUMNS) for d in dims]))
    sources, targets = tuple(call.sources), tuple(call.targets)
    source_strides, target_strides = (tuple([x.stride(0) for x in side]) for side in (sources, targets))
    stored = torch.bfloat16 if format == "bf16" else dtype
    rows = [torch.empty((source_rows + target_rows, width), dtype=stored, device=device) for width in widths]
    mirrored = [torch.empty_like(z.T, memory_format=torch.contiguous_format) if transposed else None for z in rows]
    norms = list(torch.empty((layers, source_rows + target_rows), dtype=dtype, device=device).unbind())
    groups = min(MAX_GROUPS, triton.next_power_of_2(max(source_rows, target_rows) // ROWS))
    sums = torch.empty((groups, first_chunks[-1], COLUMNS), dtype=dtype, device=device)
    norm_sums = torch.empty((layers, tiles), dtype=torch.float64, device=device)
    bandwidths = torch.empty((3, layers), dtype=torch.float64, device=device)
    weights = torch.empty(3, dtype=torch.float64, device=device)
    factors = torch.empty((3, layers, 2), dtype=dtype, device=device)
    launch(
        column_sums,
        (first_chunks[-1], groups),
        sources,
        targets,
        source_strides,
        target_strides,
        dims,
        first_chunks,
        sums,
        n_source,
        n_target,
        L=layers,
        GROUPS=groups,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        DTYPE=TRITON_DTYPE[dtype],
    )
    launch(
        centre,
        (tiles, layers),
        sources,
        targets,
        source_strides,
        target_strides,
        dims,
        widths,
        first_chunks,
        sums,
        tuple(rows),
        tuple(mirrored),
        tuple(norms),
        norm_sums,
        n_source,
        n_target,
        source_rows // ROWS,
        L=layers,
        GROUPS=groups,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        DTYPE=TRITON_DTYPE[dtype],
        FORMAT=format,
        ONES=ones,
        num_warps=8,  # with 4, a tile and its transposed copy spill 107 registers
    )
    launch(
        find_bandwidths,
        (tiles,),
        norm_sums,
        call.bandwidths,
        plan.numbers,
        tuple(norms),
        bandwidths,
        weights,
        factors,
        n_source,
        n_target,
        source_rows // ROWS,
        LAYERS=plan.layers,
        ROWS=ROWS,
        DTYPE=TRITON_DTYPE[dtype],
    )
    return Packed(
        rows=rows,
        transposed=mirrored,
        exponents=norms,
        bandwidths=bandwidths,
        weights=weights,
        factors=factors,
        source_rows=source_rows,
    )
