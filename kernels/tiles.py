"""Many rows of moderate width, as in flash attention: Gram tiles of all layers stay on the chip.

A program owns a tile of rows and walks over all tiles of columns: inner products, kernels, coefficients, and their
product with the same columns' features, which are read once and used twice. Each Gram tile is computed twice, for its
rows and for its mirror image's: a third more arithmetic than the bound, and nothing to add up across programs. Without
gradients each pair of tiles is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmmd.kernels.arithmetic import (
    coefficients,
    count,
    joint_kernel,
    mixtures,
    product,
    rounded,
    weight_of_pair,
)
from fastmmd.kernels.finish import empty_gradients, finished
from fastmmd.kernels.launch import launch
from fastmmd.kernels.pack import pack
from fastmmd.kernels.plan import TRITON_DTYPE, Plan


@triton.constexpr_function
def item(values, index):
    return values[index]


@triton.jit(do_not_specialize=["n_source", "n_target", "source_tiles"])
def fused_tiles(
    packed,  # fastmmd.kernels.pack.Packed
    norms,
    bandwidths,
    dims,
    numbers,
    partials,  # [tiles, 3, 1 + L] fp64
    source_gradients,  # tuple of pointers, None where not needed
    target_gradients,
    n_source,
    n_target,
    source_tiles,
    LAYERS: tl.constexpr,
    CHUNKS: tl.constexpr,  # per layer: chunks of features
    WIDTHS: tl.constexpr,  # and their width
    WANTED: tl.constexpr,  # and whether either side needs a gradient
    GRADIENT: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,  # of pairs at a time; divides TILE
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    L: tl.constexpr = count(LAYERS)
    i, tiles = tl.program_id(0), tl.num_programs(0)
    is_source = i < source_tiles
    row = tl.arange(0, TILE)
    first_row = tl.where(is_source, i, i - source_tiles) * TILE
    in_rows = first_row + row < tl.where(is_source, n_source, n_target)

    used, noises, x_norms, weighted, row_sums = (), (), (), (), ()
    for l in tl.static_range(L):
        used = used + (tl.load(bandwidths + l),)
        noises = noises + (tl.load(bandwidths + L + l),)
        x_norms = x_norms + (tl.load(norms[l] + i * TILE + row),)
        if WANTED[l]:
            row_sums = row_sums + (tl.zeros((TILE,), DTYPE),)
            for _ in tl.static_range(item(CHUNKS, l)):
                weighted = weighted + (tl.zeros((TILE, item(WIDTHS, l)), DTYPE),)
    same_sums, cross_sums = (), ()
    for _ in tl.static_range(1 + L):
        same_sums = same_sums + (tl.zeros((TILE,), tl.float64),)
        cross_sums = cross_sums + (tl.zeros((TILE,), tl.float64),)

    splits: tl.constexpr = TILE // COLUMNS
    for step in range(0, (tiles if GRADIENT else tiles // 2 + 1) * splits):
        # All programs read the same columns at a time; without gradients every one has half of the pairs to do.
        offset = step // splits
        j = offset if GRADIENT else (i + offset) % tiles
        other_is_source = j < source_tiles
        first_column = (step % splits) * COLUMNS
        column = first_column + tl.arange(0, COLUMNS)
        other_row = tl.where(other_is_source, j, j - source_tiles) * TILE
        in_columns = other_row + column < tl.where(other_is_source, n_source, n_target)
        pair = in_rows[:, None] & in_columns[None, :] & ((row[:, None] != column[None, :]) | (i != j))
        other = j * TILE + first_column
        squared = ()
        for l in tl.static_range(L):
            inner = tl.zeros((TILE, COLUMNS), DTYPE)
            for chunk in tl.static_range(item(CHUNKS, l)):
                x = _chunk(packed[l], i * TILE, chunk, CHUNKS[l], TILE, WIDTHS[l])
                y = _chunk(packed[l], other, chunk, CHUNKS[l], COLUMNS, WIDTHS[l])
                inner = product(x, tl.trans(y), inner, FORMAT)
            d = x_norms[l][:, None] + tl.load(norms[l] + j * TILE + column)[None, :] - 2 * inner
            squared = squared + (tl.maximum(d, 0.0, propagate_nan=tl.PropagateNan.ALL),)
        kernels, slopes = mixtures(squared, used, noises, LAYERS)

        # How often this tile stands for pairs: itself and its mirror image, unless both are visited.
        both = GRADIENT | (2 * offset == tiles)
        same_weight = tl.where(both | (offset == 0), 1.0, 2.0)
        cross_weight = tl.where(both, 0.5, 1.0)
        same, cross = (), ()
        for term in tl.static_range(1 + L):
            value = joint_kernel(kernels, LAYERS) if term == 0 else kernels[term - 1]
            sums = tl.sum(tl.where(pair, value, 0.0), axis=1).to(tl.float64)
            same = same + (same_sums[term] + tl.where(is_source == other_is_source, same_weight * sums, 0.0),)
            cross = cross + (cross_sums[term] + tl.where(is_source == other_is_source, 0.0, cross_weight * sums),)
        same_sums, cross_sums = same, cross

        if GRADIENT:
            pair_weight = weight_of_pair(is_source, other_is_source, numbers)
            new_weighted, new_sums = (), ()
            for l in tl.static_range(L):
                if WANTED[l]:
                    c = coefficients(l, pair_weight, kernels, slopes, numbers, LAYERS)
                    c = rounded(tl.where(pair, c, 0.0), FORMAT)
                    new_sums = new_sums + (row_sums[len(new_sums)] + tl.sum(c, axis=1),)
                    for chunk in tl.static_range(item(CHUNKS, l)):
                        y = _chunk(packed[l], other, chunk, CHUNKS[l], COLUMNS, WIDTHS[l])
                        new_weighted = new_weighted + (product(c, y, weighted[len(new_weighted)], FORMAT),)
            weighted, row_sums = new_weighted, new_sums

    mine = partials + i * 3 * (1 + L)
    for term in tl.static_range(1 + L):
        same, cross = tl.sum(same_sums[term]), tl.sum(cross_sums[term])
        tl.store(mine + term, tl.where(is_source, same, 0.0))
        tl.store(mine + 1 + L + term, tl.where(is_source, 0.0, same))
        tl.store(mine + 2 * (1 + L) + term, cross)

    if GRADIENT:
        place = (first_row + row).to(tl.int64)[:, None]
        for l in tl.static_range(L):
            if WANTED[l]:
                for chunk in tl.static_range(item(CHUNKS, l)):
                    z = _chunk(packed[l], i * TILE, chunk, CHUNKS[l], TILE, WIDTHS[l]).to(DTYPE)
                    gradient = 4 * (weighted[0] - row_sums[0][:, None] * z)
                    weighted = weighted[1:]
                    column = chunk * WIDTHS[l] + tl.arange(0, WIDTHS[l])[None, :]
                    mask = in_rows[:, None] & (column < dims[l])
                    if is_source:
                        if source_gradients[l] is not None:
                            tl.store(source_gradients[l] + place * dims[l] + column, gradient, mask=mask)
                    else:
                        if target_gradients[l] is not None:
                            tl.store(target_gradients[l] + place * dims[l] + column, gradient, mask=mask)
                row_sums = row_sums[1:]


@triton.jit
def _chunk(packed, first, chunk: tl.constexpr, CHUNKS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = (first + tl.arange(0, ROWS)).to(tl.int64)
    return tl.load(packed + row[:, None] * (CHUNKS * WIDTH) + chunk * WIDTH + tl.arange(0, WIDTH)[None, :])


CHUNK = 64  # features that a product takes at a time: more would not fit into registers


class Config(NamedTuple):
    """A line of the launch table."""

    tile: int  # rows
    columns: int  # at a time
    warps: int
    stages: int


def chunks(dims: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Number and width of each layer's chunks: a power of 2 between a matrix instruction's 16 and CHUNK."""
    widths = tuple(min(CHUNK, max(16, triton.next_power_of_2(d))) for d in dims)
    return tuple(triton.cdiv(d, width) for d, width in zip(dims, widths, strict=True)), widths


def run(
    plan: Plan,
    sources: list[Tensor],
    targets: list[Tensor],
    bandwidths: Tensor | None,
    needs_grad: list[bool],
    clamp: bool,
    dtype: torch.dtype,
    format: str,
    config: Config,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """fastmmd.backends' `run` for layers of up to 256 features."""
    assert config.tile % config.columns == 0
    layers, dims = len(sources), tuple(x.shape[1] for x in sources)
    counts, widths = chunks(dims)
    columns = tuple(count * width for count, width in zip(counts, widths, strict=True))
    packed = pack(plan, sources, targets, bandwidths, dtype, format, columns, config.tile)
    gradients = empty_gradients(sources, targets, needs_grad, dtype)
    wanted = tuple(a or b for a, b in zip(needs_grad[:layers], needs_grad[layers:], strict=True))
    tiles = packed.rows[0].shape[0] // config.tile
    partials = torch.empty((tiles, 3, 1 + layers), dtype=torch.float64, device=sources[0].device)
    launch(
        fused_tiles,
        (tiles,),
        *(tuple(packed.rows), tuple(packed.norms), packed.bandwidths, dims, plan.numbers, partials),
        *(tuple(gradients[:layers]), tuple(gradients[layers:])),
        *(sources[0].shape[0], targets[0].shape[0], packed.source_rows // config.tile),
        LAYERS=plan.layers,
        CHUNKS=counts,
        WIDTHS=widths,
        WANTED=wanted,
        GRADIENT=any(wanted),
        TILE=config.tile,
        COLUMNS=config.columns,
        FORMAT=format,
        DTYPE=TRITON_DTYPE[dtype],
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return *finished(plan, partials, packed.bandwidths, clamp, dtype), gradients
