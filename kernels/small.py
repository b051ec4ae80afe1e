"""Route "small": training sizes in two launches: distances, split over the features to fill the GPU; then loss and
gradients.

Rows are cut into tiles inside each domain, so a tile has one domain and one weight. The first launch
(small_distances.py) writes the squared distances of each tile pair in parts, one per range of features; a pair is
centred on its own mean, so no pass over all rows comes first. In the second (small_loss.py) every program adds up the
parts of a row of tiles, turns them into coefficients, and multiplies these by its chunk of the features. Work that is
done again in several programs costs less here than a third launch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import triton
from torch import Tensor

from fastmmd.backends.layout import empty_gradients
from fastmmd.call import Call, Result
from fastmmd.kernels.launch import launch
from fastmmd.kernels.plan import TRITON_DTYPE, make_plan
from fastmmd.kernels.small_distances import small_distances
from fastmmd.kernels.small_loss import small_loss


@dataclass(frozen=True)
class Config:
    """
    tile: rows of a tile.
    features: of one step of the first launch.
    chunk: features of a program of the second launch.
    part_features: fewest features of a part.
    max_parts: most parts of one layer.
    warps, stages: of both launches.
    overlap: whether the second launch begins while the first one ends (programmatic dependent launch, from compute
        capability 9.0 on).
    """

    tile: int
    features: int
    chunk: int
    part_features: int
    max_parts: int
    warps: int
    stages: int
    overlap: bool


def run(call: Call, format: str, config: Config) -> Result:
    """For a few hundred pooled rows."""
    problem, device, dtype, dims, layers = call.problem, call.device, call.dtype, call.dims, len(call.sources)
    plan = make_plan(problem, dtype, format)
    n_source, n_target = problem.n_source, problem.n_target
    tiles = triton.cdiv(n_source, config.tile) + triton.cdiv(n_target, config.tile)
    part_features = max(config.part_features, _align(triton.cdiv(max(dims), config.max_parts), config.features))
    first_parts = _starts([triton.cdiv(d, part_features) for d in dims])
    needed = zip(dims, call.layer_needs_grad, strict=True)
    first_chunks = _starts([triton.cdiv(d, config.chunk) if needs_grad else 0 for d, needs_grad in needed])

    gradients = empty_gradients(call.inputs, call.needs_grad, dtype)
    parts, side, offsets = first_parts[-1], tiles * config.tile, tiles // 2 + 1
    distances = torch.empty((parts, side, side), dtype=dtype, device=device)
    sums = torch.empty(parts * tiles * offsets + tiles * (1 + layers), dtype=torch.float64, device=device)
    distance_sums, partial_sums = sums[: parts * tiles * offsets], sums[parts * tiles * offsets :]
    arrived = torch.empty((), dtype=torch.int32, device=device)
    loss = torch.empty((), dtype=dtype, device=device)
    statistics = torch.empty(1 + 2 * layers, dtype=dtype, device=device)

    overlap = config.overlap and not triton.knobs.runtime.interpret
    sources, targets = tuple(call.sources), tuple(call.targets)
    source_strides, target_strides = _strides(sources), _strides(targets)
    launch(
        small_distances,
        (tiles, offsets, parts),
        sources,
        targets,
        source_strides,
        target_strides,
        dims,
        first_parts,
        distances,
        distance_sums,
        arrived,
        n_source,
        n_target,
        part_features,
        L=layers,
        TILE=config.tile,
        FEATURES=config.features,
        FORMAT=format,
        DTYPE=TRITON_DTYPE[dtype],
        OVERLAP=overlap,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    launch(
        small_loss,
        (tiles, max(1, first_chunks[-1])),
        sources,
        targets,
        source_strides,
        target_strides,
        dims,
        first_parts,
        first_chunks,
        distances,
        distance_sums,
        call.bandwidths,
        plan.numbers,
        partial_sums,
        arrived,
        loss,
        statistics,
        tuple(gradients[:layers]),
        tuple(gradients[layers:]),
        n_source,
        n_target,
        LAYERS=plan.layers,
        CLAMP=problem.clamp,
        TILE=config.tile,
        CHUNK=config.chunk,
        FORMAT=format,
        DTYPE=TRITON_DTYPE[dtype],
        GRADIENT=any(call.needs_grad),
        OVERLAP=overlap,
        num_warps=config.warps,
        num_stages=config.stages,
        **({"launch_pdl": True} if overlap else {}),
    )
    return Result(loss, statistics, gradients)


def _starts(counts: Iterable[int]) -> tuple[int, ...]:
    """[1 + L]: where each layer's range begins, and where the last ends."""
    return (0, *accumulate(counts))


def _strides(layers: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple([x.stride(0) for x in layers])


def _align(number: int, multiple: int) -> int:
    return triton.cdiv(number, multiple) * multiple
