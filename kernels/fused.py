"""Route "fused": many rows of moderate width, as in flash attention: Gram tiles of all layers stay on the chip.

A program owns a tile of rows and walks over all tiles of columns: inner products, kernels, coefficients, and their
product with the same columns' features, which are read once and used twice. Each Gram tile is computed twice, for its
rows and for its mirror image's: a third more arithmetic than the bound, and nothing to add up across programs. Without
gradients each pair of tiles is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from fastmmd.backends.layout import empty_gradients
from fastmmd.call import Call, Result
from fastmmd.kernels.arithmetic import (
    coefficients,
    count,
    mixtures,
    product,
    rounded,
    term_values,
    weight_of_pair,
)
from fastmmd.kernels.finish import loss_and_statistics
from fastmmd.kernels.launch import launch
from fastmmd.kernels.pack import pack
from fastmmd.kernels.plan import TRITON_DTYPE, make_plan


@triton.constexpr_function
def item(values, index):
    return values[index]


@triton.jit(do_not_specialize=["n_source", "n_target", "source_tiles"])
def fused_loss(
    packed_ptrs,  # L times [tiles * TILE, CHUNKS[l] * WIDTHS[l]] DTYPE, or bf16
    norms_ptrs,  # L times [tiles * TILE] DTYPE
    bandwidths_ptr,  # [2, L] fp64: bandwidths, tolerances
    dims,  # [L]: features
    numbers,
    partial_sums_ptr,  # [tiles, 3, 1 + L] fp64
    grad_source_ptrs,  # L times [n_source, dims[l]] DTYPE, or None where not needed
    grad_target_ptrs,  # L times [n_target, dims[l]] DTYPE, or None
    n_source,
    n_target,
    source_tiles,
    LAYERS: tl.constexpr,
    CHUNKS: tl.constexpr,  # [L]: chunks of features
    WIDTHS: tl.constexpr,  # [L]: and their width
    LAYER_NEEDS_GRAD: tl.constexpr,  # [L]
    GRADIENT: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,  # of pairs at a time; divides TILE
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    L: tl.constexpr = count(LAYERS)
    i, tiles = tl.program_id(0), tl.num_programs(0)
    row_is_source = i < source_tiles
    row = tl.arange(0, TILE)
    first_row = tl.where(row_is_source, i, i - source_tiles) * TILE
    in_rows = first_row + row < tl.where(row_is_source, n_source, n_target)

    bandwidths, tolerances, b_x_norms, b_weighted, b_row_sums = (), (), (), (), ()
    for l in tl.static_range(L):
        bandwidths = bandwidths + (tl.load(bandwidths_ptr + l),)
        tolerances = tolerances + (tl.load(bandwidths_ptr + L + l),)
        b_x_norms = b_x_norms + (tl.load(norms_ptrs[l] + i * TILE + row),)
        if LAYER_NEEDS_GRAD[l]:
            b_row_sums = b_row_sums + (tl.zeros((TILE,), DTYPE),)
            for _ in tl.static_range(item(CHUNKS, l)):
                b_weighted = b_weighted + (tl.zeros((TILE, item(WIDTHS, l)), DTYPE),)
    b_same_sums, b_cross_sums = (), ()
    for _ in tl.static_range(1 + L):
        b_same_sums = b_same_sums + (tl.zeros((TILE,), tl.float64),)
        b_cross_sums = b_cross_sums + (tl.zeros((TILE,), tl.float64),)

    splits: tl.constexpr = TILE // COLUMNS
    for step in range(0, (tiles if GRADIENT else tiles // 2 + 1) * splits):
        # All programs read the same columns at a time; without gradients every one has half of the pairs to do.
        offset = step // splits
        j = offset if GRADIENT else (i + offset) % tiles
        column_is_source = j < source_tiles
        first_split_column = (step % splits) * COLUMNS
        column = first_split_column + tl.arange(0, COLUMNS)
        first_column = tl.where(column_is_source, j, j - source_tiles) * TILE
        in_columns = first_column + column < tl.where(column_is_source, n_source, n_target)
        pair = in_rows[:, None] & in_columns[None, :] & ((row[:, None] != column[None, :]) | (i != j))
        packed_column = j * TILE + first_split_column
        b_distances = ()
        for l in tl.static_range(L):
            b_inner = tl.zeros((TILE, COLUMNS), DTYPE)
            for chunk in tl.static_range(item(CHUNKS, l)):
                b_x = _chunk(packed_ptrs[l], i * TILE, chunk, CHUNKS[l], TILE, WIDTHS[l])
                b_y = _chunk(packed_ptrs[l], packed_column, chunk, CHUNKS[l], COLUMNS, WIDTHS[l])
                b_inner = product(b_x, tl.trans(b_y), b_inner, FORMAT)
            b_y_norms = tl.load(norms_ptrs[l] + j * TILE + column)
            b_squared = b_x_norms[l][:, None] + b_y_norms[None, :] - 2 * b_inner
            b_distances = b_distances + (tl.maximum(b_squared, 0.0, propagate_nan=tl.PropagateNan.ALL),)
        b_kernels, b_slopes = mixtures(b_distances, bandwidths, tolerances, LAYERS)

        # How often this tile stands for pairs: itself and its mirror image, unless both are visited.
        both = GRADIENT | (2 * offset == tiles)
        same_weight = tl.where(both | (offset == 0), 1.0, 2.0)
        cross_weight = tl.where(both, 0.5, 1.0)
        b_same, b_cross = (), ()
        for term in tl.static_range(1 + L):
            b_sums = tl.sum(tl.where(pair, term_values(term, b_kernels, LAYERS), 0.0), axis=1).to(tl.float64)
            b_same_sum = tl.where(row_is_source == column_is_source, same_weight * b_sums, 0.0)
            b_same = b_same + (b_same_sums[term] + b_same_sum,)
            b_cross_sum = tl.where(row_is_source == column_is_source, 0.0, cross_weight * b_sums)
            b_cross = b_cross + (b_cross_sums[term] + b_cross_sum,)
        b_same_sums, b_cross_sums = b_same, b_cross

        if GRADIENT:
            pair_weight = weight_of_pair(row_is_source, column_is_source, numbers)
            b_new_weighted, b_new_sums = (), ()
            for l in tl.static_range(L):
                if LAYER_NEEDS_GRAD[l]:
                    b_c = coefficients(l, pair_weight, b_kernels, b_slopes, numbers, LAYERS)
                    b_c = rounded(tl.where(pair, b_c, 0.0), FORMAT)
                    b_new_sums = b_new_sums + (b_row_sums[len(b_new_sums)] + tl.sum(b_c, axis=1),)
                    for chunk in tl.static_range(item(CHUNKS, l)):
                        b_y = _chunk(packed_ptrs[l], packed_column, chunk, CHUNKS[l], COLUMNS, WIDTHS[l])
                        b_total = product(b_c, b_y, b_weighted[len(b_new_weighted)], FORMAT)
                        b_new_weighted = b_new_weighted + (b_total,)
            b_weighted, b_row_sums = b_new_weighted, b_new_sums

    sums_ptr = partial_sums_ptr + i * 3 * (1 + L)
    for term in tl.static_range(1 + L):
        same_sum, cross_sum = tl.sum(b_same_sums[term]), tl.sum(b_cross_sums[term])
        tl.store(sums_ptr + term, tl.where(row_is_source, same_sum, 0.0))
        tl.store(sums_ptr + 1 + L + term, tl.where(row_is_source, 0.0, same_sum))
        tl.store(sums_ptr + 2 * (1 + L) + term, cross_sum)

    if GRADIENT:
        out_row = (first_row + row).to(tl.int64)[:, None]
        for l in tl.static_range(L):
            if LAYER_NEEDS_GRAD[l]:
                for chunk in tl.static_range(item(CHUNKS, l)):
                    b_x = _chunk(packed_ptrs[l], i * TILE, chunk, CHUNKS[l], TILE, WIDTHS[l]).to(DTYPE)
                    b_gradient = 4 * (b_weighted[0] - b_row_sums[0][:, None] * b_x)
                    b_weighted = b_weighted[1:]
                    feature = chunk * WIDTHS[l] + tl.arange(0, WIDTHS[l])[None, :]
                    mask = in_rows[:, None] & (feature < dims[l])
                    if row_is_source:
                        if grad_source_ptrs[l] is not None:
                            tl.store(grad_source_ptrs[l] + out_row * dims[l] + feature, b_gradient, mask=mask)
                    else:
                        if grad_target_ptrs[l] is not None:
                            tl.store(grad_target_ptrs[l] + out_row * dims[l] + feature, b_gradient, mask=mask)
                b_row_sums = b_row_sums[1:]


@triton.jit
def _chunk(
    packed_ptr,  # [padded rows, CHUNKS * WIDTH]
    first_row,
    chunk: tl.constexpr,
    CHUNKS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """[ROWS, WIDTH]: a chunk of the features of some rows."""
    row = (first_row + tl.arange(0, ROWS)).to(tl.int64)
    return tl.load(packed_ptr + row[:, None] * (CHUNKS * WIDTH) + chunk * WIDTH + tl.arange(0, WIDTH)[None, :])


CHUNK = 64  # features that a product takes at a time: more would not fit into registers


@dataclass(frozen=True)
class Config:
    """
    tile: rows of a program.
    columns: of Gram tiles, at a time; divides `tile`.
    """

    tile: int
    columns: int
    warps: int
    stages: int


def chunks(dims: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Number and width of each layer's chunks: a power of 2 between a matrix instruction's 16 and CHUNK."""
    widths = tuple([min(CHUNK, max(16, triton.next_power_of_2(d))) for d in dims])
    return tuple([triton.cdiv(d, width) for d, width in zip(dims, widths, strict=True)]), widths


def padded_widths(dims: Sequence[int]) -> tuple[int, ...]:
    """Features per layer, each rounded up to whole chunks."""
    return tuple([number * width for number, width in zip(*chunks(dims), strict=True)])


def run(call: Call, format: str, config: Config) -> Result:
    """For layers of up to 256 features."""
    assert config.tile % config.columns == 0
    problem, dtype, dims, layers = call.problem, call.dtype, call.dims, len(call.sources)
    plan, layer_needs_grad = make_plan(problem, dtype), call.layer_needs_grad
    counts, widths = chunks(dims)
    packed = pack(call, plan, format=format, widths=padded_widths(dims), tile=config.tile)
    gradients = empty_gradients(call.inputs, call.needs_grad, dtype)
    tiles = len(packed.rows[0]) // config.tile
    partial_sums = torch.empty((tiles, 3, 1 + layers), dtype=torch.float64, device=call.device)
    launch(
        fused_loss,
        (tiles,),
        tuple(packed.rows),
        tuple(packed.norms),
        packed.bandwidths,
        dims,
        plan.numbers,
        partial_sums,
        tuple(gradients[:layers]),
        tuple(gradients[layers:]),
        problem.n_source,
        problem.n_target,
        packed.source_rows // config.tile,
        LAYERS=plan.layers,
        CHUNKS=counts,
        WIDTHS=widths,
        LAYER_NEEDS_GRAD=layer_needs_grad,
        GRADIENT=any(layer_needs_grad),
        TILE=config.tile,
        COLUMNS=config.columns,
        FORMAT=format,
        DTYPE=TRITON_DTYPE[dtype],
        num_warps=config.warps,
        num_stages=config.stages,
    )
    loss, statistics = loss_and_statistics(plan, partial_sums, packed.bandwidths, clamp=problem.clamp, dtype=dtype)
    return Result(loss, statistics, gradients)
