"""For many rows: one centred copy of the pooled rows a layer, with norms and bandwidths, in three launches.

The copy holds the source's rows, then the target's, each padded to whole tiles, so that every tile has one domain and
one weight. It is rounded to the products' format, and norms are those of the rounded rows. Padding is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmmd.kernels.arithmetic import bandwidth_and_noise, count, rounded
from fastmmd.kernels.launch import launch
from fastmmd.kernels.plan import TRITON_DTYPE, Plan

MAX_GROUPS = 32  # of rows, each summed by one program
ROWS = 64  # a program copies; a power of 2, as tiles are
COLUMNS = 64


class Packed(NamedTuple):
    rows: list[Tensor]  # [padded rows, width] a layer; past its d columns: 0, or first a column of ones
    norms: list[Tensor]  # [padded rows], fp32 or fp64
    bandwidths: Tensor  # [2, L] fp64: bandwidths, and the round-off of distances
    source_rows: int  # where the target begins


@triton.jit(do_not_specialize=["n_source", "n_target"])
def column_sums(
    sources,
    targets,
    source_strides,
    target_strides,
    dims,
    first_chunks,  # [1 + L]
    sums,  # [GROUPS, chunks, COLUMNS]: of the rows' differences from the first one
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
            column = (chunk - first_chunks[l]) * COLUMNS + lane
            present = column < dims[l]
            origin = tl.load(sources[l] + column, mask=present, other=0.0).to(DTYPE)[None, :]
            total = tl.zeros((ROWS, COLUMNS), DTYPE)
            for start in range(group * ROWS, n_source, GROUPS * ROWS):
                mask = ((start + row) < n_source)[:, None] & present[None, :]
                place = (start + row).to(tl.int64)[:, None] * source_strides[l] + column[None, :]
                x = tl.load(sources[l] + place, mask=mask, other=0.0).to(DTYPE)
                total += tl.where(mask, x - origin, 0.0)
            for start in range(group * ROWS, n_target, GROUPS * ROWS):
                mask = ((start + row) < n_target)[:, None] & present[None, :]
                place = (start + row).to(tl.int64)[:, None] * target_strides[l] + column[None, :]
                x = tl.load(targets[l] + place, mask=mask, other=0.0).to(DTYPE)
                total += tl.where(mask, x - origin, 0.0)
            tl.store(sums + (group * tl.num_programs(0) + chunk) * COLUMNS + lane, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["n_source", "n_target", "source_tiles"])
def centre(
    sources,
    targets,
    source_strides,
    target_strides,
    dims,
    widths,
    first_chunks,
    sums,
    packed,  # tuple of pointers
    norms,
    norm_sums,  # [L, row tiles] fp64
    n_source,
    n_target,
    source_tiles,
    L: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
    ONES: tl.constexpr,  # a column of ones follows the features
):
    tile, layer = tl.program_id(0), tl.program_id(1)
    is_source = tile < source_tiles
    first = tl.where(is_source, tile, tile - source_tiles) * ROWS
    row = first + tl.arange(0, ROWS)
    in_rows = row < tl.where(is_source, n_source, n_target)
    place = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    group = tl.arange(0, GROUPS)[:, None]
    chunks = first_chunks[L]
    for l in tl.static_range(L):
        if layer == l:
            squares = tl.zeros((ROWS,), DTYPE)
            for start in range(0, widths[l], COLUMNS):
                column = start + tl.arange(0, COLUMNS)
                present = column < dims[l]
                mask = in_rows[:, None] & present[None, :]
                stride = tl.where(is_source, source_strides[l], target_strides[l])
                at = tl.where(is_source, sources[l], targets[l]) + row.to(tl.int64)[:, None] * stride + column[None, :]
                z = tl.load(at, mask=mask, other=0.0).to(DTYPE)
                origin = tl.load(sources[l] + column, mask=present, other=0.0).to(DTYPE)
                at = (group * chunks + first_chunks[l]) * COLUMNS + column[None, :]
                total = tl.sum(tl.load(sums + at, mask=present[None, :] & (group >= 0), other=0.0), axis=0)
                mean = (origin + total / (n_source + n_target).to(DTYPE))[None, :]
                z = rounded(tl.where(mask, z - mean, 0.0), FORMAT)
                squares += tl.sum(z * z, axis=1)
                if ONES:
                    z = tl.where(in_rows[:, None] & (column == dims[l])[None, :], 1.0, z)
                at = packed[l] + place[:, None] * widths[l] + column[None, :]
                inside = (column < widths[l])[None, :] & (place >= 0)[:, None]
                tl.store(at, z.to(packed[l].dtype.element_ty), mask=inside)
            tl.store(norms[l] + place, squares)
            tl.store(norm_sums + l * tl.num_programs(0) + tile, tl.sum(squares.to(tl.float64)))


@triton.jit(do_not_specialize=["n", "tiles"])
def find_bandwidths(norm_sums, given, numbers, bandwidths, n, tiles, LAYERS: tl.constexpr, DTYPE: tl.constexpr):
    for l in tl.static_range(count(LAYERS)):
        part = tl.zeros((128,), tl.float64)
        for start in range(0, tiles, 128):
            tile = start + tl.arange(0, 128)
            part += tl.load(norm_sums + l * tiles + tile, mask=tile < tiles, other=0.0)
        # Centred rows: the mean of ||z_i - z_j||^2 over i != j is 2 sum_i ||z_i||^2 / (N - 1).
        mean = 2 * tl.sum(part) / (n - 1).to(tl.float64)
        bandwidth, noise = bandwidth_and_noise(l, mean, given, numbers, DTYPE, LAYERS)
        tl.store(bandwidths + l, bandwidth)
        tl.store(bandwidths + count(LAYERS) + l, noise)


def pack(
    plan: Plan,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    given: Tensor | None,
    dtype: torch.dtype,
    format: str,
    widths: tuple[int, ...],
    tile: int,
    ones: bool = False,
) -> Packed:
    """`widths`: columns of each layer's copy, at least d, and one more for `ones`; `tile`: rows of a tile."""
    device, layers = sources[0].device, len(sources)
    n_source, n_target = sources[0].shape[0], targets[0].shape[0]
    multiple = max(ROWS, tile)
    source_rows, target_rows = (triton.cdiv(n, multiple) * multiple for n in (n_source, n_target))
    tiles = (source_rows + target_rows) // ROWS
    dims = tuple(x.shape[1] for x in sources)
    first_chunks = (0, *accumulate(triton.cdiv(d, COLUMNS) for d in dims))
    strides = (tuple(x.stride(0) for x in sources), tuple(x.stride(0) for x in targets))
    inputs = (tuple(sources), tuple(targets), *strides, dims)
    stored = torch.bfloat16 if format == "bf16" else dtype
    rows = [torch.empty((source_rows + target_rows, width), dtype=stored, device=device) for width in widths]
    norms = list(torch.empty((layers, source_rows + target_rows), dtype=dtype, device=device).unbind())
    groups = min(MAX_GROUPS, triton.next_power_of_2(max(source_rows, target_rows) // ROWS))
    sums = torch.empty((groups, first_chunks[-1], COLUMNS), dtype=dtype, device=device)
    norm_sums = torch.empty((layers, tiles), dtype=torch.float64, device=device)
    bandwidths = torch.empty((2, layers), dtype=torch.float64, device=device)
    sizes = {"L": layers, "GROUPS": groups, "ROWS": ROWS, "COLUMNS": COLUMNS, "DTYPE": TRITON_DTYPE[dtype]}
    launch(column_sums, (first_chunks[-1], groups), *inputs, first_chunks, sums, n_source, n_target, **sizes)
    launch(
        centre,
        (tiles, layers),
        *(*inputs, widths, first_chunks, sums, tuple(rows), tuple(norms), norm_sums),
        *(n_source, n_target, source_rows // ROWS),
        **sizes,
        FORMAT=format,
        ONES=ones,
    )
    launch(
        find_bandwidths,
        (1,),
        *(norm_sums, given, plan.numbers, bandwidths, n_source + n_target, tiles),
        LAYERS=plan.layers,
        DTYPE=TRITON_DTYPE[dtype],
    )
    return Packed(rows, norms, bandwidths, source_rows)
