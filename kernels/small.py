"""Training sizes in two launches: distances, split over the features to fill the GPU; then loss and gradients.

Rows are cut into tiles inside each domain, so a tile has one domain and one weight. The first launch writes the squared
distances of each tile pair, one part a range of features; a pair is centred on its own mean, so no pass over all rows
comes first. In the second every program adds up the parts of a row of tiles, turns them into coefficients, and
multiplies these by its chunk of the features. Work that is done again in several programs costs less here than a third
launch.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmmd.kernels.arithmetic import (
    bandwidth_and_noise,
    coefficients_of,
    count,
    joint_kernel,
    mixtures,
    product,
    rounded,
    weight_of_pair,
)
from fastmmd.kernels.distances import partial_distances
from fastmmd.kernels.finish import empty_gradients, finish
from fastmmd.kernels.launch import launch
from fastmmd.kernels.plan import TRITON_DTYPE, Plan


@triton.jit(do_not_specialize=["n_source", "n_target"])
def loss_and_gradients(
    sources,
    targets,
    source_strides,
    target_strides,
    dims,
    first_parts,
    first_chunks,  # [1 + L]: a layer's first chunk of the gradients, and the number of chunks of all
    distances,
    distance_sums,
    given,  # pointer to bandwidths [L] fp64, or None
    numbers,
    partials,  # [tiles, 3, 1 + L] fp64
    arrived,
    loss,
    report,
    source_gradients,  # tuple of pointers, None where not needed
    target_gradients,
    n_source,
    n_target,
    LAYERS: tl.constexpr,
    CLAMP: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    L: tl.constexpr = count(LAYERS)
    i, chunk = tl.program_id(0), tl.program_id(1)
    source_tiles = tl.cdiv(n_source, TILE)
    tiles = source_tiles + tl.cdiv(n_target, TILE)
    is_source = i < source_tiles
    row = tl.arange(0, TILE)
    first_row = tl.where(is_source, i, i - source_tiles) * TILE
    in_rows = first_row + row < tl.where(is_source, n_source, n_target)
    side = tiles * TILE
    n = n_source + n_target
    bandwidths, noises = _bandwidths(distance_sums, first_parts, tiles, given, numbers, n, DTYPE, LAYERS)

    own = tl.zeros((), tl.int32)  # the layer of this program's gradient
    for l in tl.static_range(1, L):
        own += (chunk >= first_chunks[l]).to(tl.int32)
    column = tl.arange(0, CHUNK)
    for l in tl.static_range(L):
        if own == l:
            column += (chunk - first_chunks[l]) * CHUNK
    origin = tl.zeros((1, CHUNK), DTYPE)
    if GRADIENT:
        z = _rows(
            sources, targets, source_strides, target_strides, dims, own, is_source, first_row, in_rows, column, DTYPE
        )
        origin = _mean_row(z, in_rows, DTYPE)
        z = rounded(tl.where(in_rows[:, None], z - origin, 0.0), FORMAT)
        weighted = tl.zeros((TILE, CHUNK), DTYPE)
        row_sums = tl.zeros((TILE,), DTYPE)

    same_sums = ()
    cross_sums = ()
    for _ in tl.static_range(1 + L):
        same_sums = same_sums + (tl.zeros((TILE,), tl.float64),)
        cross_sums = cross_sums + (tl.zeros((TILE,), tl.float64),)

    for j in range(0, tiles):
        other_is_source = j < source_tiles
        other_row = tl.where(other_is_source, j, j - source_tiles) * TILE
        in_columns = other_row + row < tl.where(other_is_source, n_source, n_target)
        pair = in_rows[:, None] & in_columns[None, :] & ((row[:, None] != row[None, :]) | (i != j))
        place = (i * TILE + row)[:, None] * side + (j * TILE + row)[None, :]
        squared = ()
        for l in tl.static_range(L):
            d = tl.zeros((TILE, TILE), DTYPE)
            for part in range(first_parts[l], first_parts[l + 1]):
                d += tl.load(distances + tl.cast(part, tl.int64) * side * side + place)
            squared = squared + (tl.maximum(d, 0.0, propagate_nan=tl.PropagateNan.ALL),)
        kernels, slopes = mixtures(squared, bandwidths, noises, LAYERS)

        if chunk == 0:
            same, cross = (), ()
            for term in tl.static_range(1 + L):
                value = joint_kernel(kernels, LAYERS) if term == 0 else kernels[term - 1]
                sums = tl.sum(tl.where(pair, value, 0.0), axis=1).to(tl.float64)
                same = same + (same_sums[term] + tl.where(is_source == other_is_source, sums, 0.0),)
                cross = cross + (cross_sums[term] + tl.where(is_source == other_is_source, 0.0, sums),)
            same_sums, cross_sums = same, cross

        if GRADIENT:
            pair_weight = weight_of_pair(is_source, other_is_source, numbers)
            c = coefficients_of(own, pair_weight, kernels, slopes, numbers, LAYERS)
            c = rounded(tl.where(pair, c, 0.0), FORMAT)
            y = _rows(
                sources,
                targets,
                source_strides,
                target_strides,
                dims,
                own,
                other_is_source,
                other_row,
                in_columns,
                column,
                DTYPE,
            )
            y = rounded(tl.where(in_columns[:, None], y - origin, 0.0), FORMAT)
            weighted = product(c, y, weighted, FORMAT)
            row_sums += tl.sum(c, axis=1)

    if GRADIENT:
        gradient = 4 * (weighted - row_sums[:, None] * z)
        place = (first_row + row).to(tl.int64)[:, None]
        for l in tl.static_range(L):
            if own == l:
                mask = in_rows[:, None] & (column < dims[l])[None, :]
                if is_source:
                    if source_gradients[l] is not None:
                        tl.store(source_gradients[l] + place * dims[l] + column[None, :], gradient, mask=mask)
                else:
                    if target_gradients[l] is not None:
                        tl.store(target_gradients[l] + place * dims[l] + column[None, :], gradient, mask=mask)

    if chunk == 0:
        mine = partials + i * 3 * (1 + L)
        for term in tl.static_range(1 + L):
            same, cross = tl.sum(same_sums[term]), tl.sum(cross_sums[term])
            # Every cross pair is met from both sides.
            tl.store(mine + term, tl.where(is_source, same, 0.0))
            tl.store(mine + 1 + L + term, tl.where(is_source, 0.0, same))
            tl.store(mine + 2 * (1 + L) + term, tl.where(is_source, cross, 0.0))
        # Whoever arrives last adds up, in an order that does not depend on who that is.
        tl.debug_barrier()
        if tl.atomic_add(arrived, 1, sem="acq_rel") == tiles - 1:
            tl.debug_barrier()
            finish(partials, tiles, bandwidths, numbers, loss, report, CLAMP, 16, LAYERS)


@triton.jit
def _bandwidths(distance_sums, first_parts, tiles, given, numbers, n, DTYPE: tl.constexpr, LAYERS: tl.constexpr):
    pairs = tiles * (tiles // 2 + 1)
    bandwidths, noises = (), ()
    for l in tl.static_range(count(LAYERS)):
        part = tl.zeros((128,), tl.float64)
        for start in range(first_parts[l] * pairs, first_parts[l + 1] * pairs, 128):
            place = start + tl.arange(0, 128)
            part += tl.load(distance_sums + place, mask=place < first_parts[l + 1] * pairs, other=0.0)
        mean = tl.sum(part) / (n.to(tl.float64) * (n - 1))
        bandwidth, noise = bandwidth_and_noise(l, mean, given, numbers, DTYPE, LAYERS)
        bandwidths = bandwidths + (bandwidth,)
        noises = noises + (noise,)
    return bandwidths, noises


@triton.jit
def _rows(
    sources,
    targets,
    source_strides,
    target_strides,
    dims,
    own,
    is_source,
    first_row,
    present,
    column,
    DTYPE: tl.constexpr,
):
    """[rows, columns] of layer `own`, 0 outside."""
    row = first_row.to(tl.int64) + tl.arange(0, present.shape[0])
    z = tl.zeros((present.shape[0], column.shape[0]), DTYPE)
    for l in tl.static_range(len(dims)):
        if own == l:
            mask = present[:, None] & (column < dims[l])[None, :]
            stride = tl.where(is_source, source_strides[l], target_strides[l])
            at = tl.where(is_source, sources[l], targets[l]) + row[:, None] * stride + column[None, :]
            z = tl.load(at, mask=mask, other=0.0).to(DTYPE)
    return z


@triton.jit
def _mean_row(z, present, DTYPE: tl.constexpr):
    """[1, columns]: the mean of the rows that are present, exact if they are equal."""
    first = tl.sum(tl.where((tl.arange(0, z.shape[0]) == 0)[:, None], z, 0.0), axis=0)[None, :]
    shifted = tl.where(present[:, None], z - first, 0.0)
    count = tl.sum(present.to(tl.int32)).to(DTYPE)
    return first + (tl.sum(shifted, axis=0) / count)[None, :]


class Config(NamedTuple):
    """A line of the launch table."""

    tile: int  # rows
    features: int  # of a step of the first launch
    chunk: int  # features of a program of the second launch
    part_features: int  # fewest features of a part
    max_parts: int  # of one layer
    warps: int
    stages: int


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
    """fastmmd.backends' `run` for N of a few hundred rows. Layers: unit stride along features."""
    device, layers = sources[0].device, len(sources)
    n_source, n_target = sources[0].shape[0], targets[0].shape[0]
    dims = tuple(x.shape[1] for x in sources)
    tiles = triton.cdiv(n_source, config.tile) + triton.cdiv(n_target, config.tile)
    part_features = max(config.part_features, _align(triton.cdiv(max(dims), config.max_parts), config.features))
    first_parts = _starts(triton.cdiv(d, part_features) for d in dims)
    wanted = [a or b for a, b in zip(needs_grad[:layers], needs_grad[layers:], strict=True)]
    first_chunks = _starts(triton.cdiv(d, config.chunk) if want else 0 for d, want in zip(dims, wanted, strict=True))

    gradients = empty_gradients(sources, targets, needs_grad, dtype)
    parts, side, offsets = first_parts[-1], tiles * config.tile, tiles // 2 + 1
    distances = torch.empty((parts, side, side), dtype=dtype, device=device)
    sums = torch.empty(parts * tiles * offsets + tiles * 3 * (1 + layers), dtype=torch.float64, device=device)
    distance_sums, partials = sums[: parts * tiles * offsets], sums[parts * tiles * offsets :]
    arrived = torch.empty((), dtype=torch.int32, device=device)
    loss = torch.empty((), dtype=dtype, device=device)
    report = torch.empty(1 + 2 * layers, dtype=dtype, device=device)

    rows = (tuple(sources), tuple(targets), _strides(sources), _strides(targets), dims)
    common = {
        "TILE": config.tile,
        "FORMAT": format,
        "DTYPE": TRITON_DTYPE[dtype],
        "num_warps": config.warps,
        "num_stages": config.stages,
    }
    launch(
        partial_distances,
        (tiles, offsets, parts),
        *(*rows, first_parts, distances, distance_sums, arrived, n_source, n_target, part_features),
        L=layers,
        FEATURES=config.features,
        **common,
    )
    launch(
        loss_and_gradients,
        (tiles, max(1, first_chunks[-1])),
        *(*rows, first_parts, first_chunks, distances, distance_sums, bandwidths, plan.numbers, partials, arrived),
        *(loss, report, tuple(gradients[:layers]), tuple(gradients[layers:]), n_source, n_target),
        LAYERS=plan.layers,
        CLAMP=clamp,
        CHUNK=config.chunk,
        GRADIENT=any(wanted),
        **common,
    )
    return loss, report, gradients


def _starts(counts: Iterable[int]) -> tuple[int, ...]:
    return (0, *accumulate(counts))


def _strides(layers: list[Tensor]) -> tuple[int, ...]:
    return tuple(x.stride(0) for x in layers)


def _align(number: int, multiple: int) -> int:
    return triton.cdiv(number, multiple) * multiple
