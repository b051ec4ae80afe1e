"""Route "fused": many rows and few features, as in flash attention (csrc/cuda/fused.cu). One launch on packed rows;
Gram tiles stay on the chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastmmd import extension
from fastmmd.backends import gram
from fastmmd.backends.cuda.stream import current
from fastmmd.call import Call, Result

FORMATS = ("tf32x3", "tf32", "bf16")  # of the tensor cores
MOST_SPLITS = 8


@dataclass(frozen=True)
class Config:
    """thread_blocks: how many to aim at: a tile of rows is shared by several until there are as many.
    stages: 2 = double buffering: the next tile is loaded while this one is computed."""

    thread_blocks: int
    stages: int


def padded_widths(dims: Sequence[int]) -> list[int]:
    """Features per layer, each rounded up to what one matrix instruction takes."""
    module: Any = extension.module
    return [-(-d // module.CUDA_FEATURE_GROUP) * module.CUDA_FEATURE_GROUP for d in dims]


def fits(dims: Sequence[int], format: str, config: Config, shared_memory: int) -> bool:
    """Whether layers of `dims` features fit into a thread block's registers and shared memory."""
    module: Any = extension.module
    width = sum(padded_widths(dims))
    if len(dims) > module.CUDA_FUSED_MAX_LAYERS or width > module.CUDA_FUSED_MAX_WIDTH:
        return False
    launch = module.CudaFusedLaunch(splits=1, stages=config.stages)
    return module.cuda_fused_shared_bytes(format, width, len(dims), True, launch) <= shared_memory


def run(call: Call, format: str, config: Config) -> Result:
    if format not in FORMATS:
        raise ValueError(f"config: route 'fused' multiplies in {', '.join(FORMATS)}, got precision {format!r}")
    module: Any = extension.module
    problem, device, layers = call.problem, call.device, len(call.sources)
    rows = gram.centred_rows(call, format)
    packed = _pack(call, rows, format)
    tiles = len(packed.rows) // module.CUDA_FUSED_PANEL_ROWS
    splits = max(1, min(config.thread_blocks // tiles, MOST_SPLITS))
    tolerances = gram.tolerances(problem, rows)
    gradient = None
    if any(call.needs_grad):
        gradient = torch.empty((splits, *packed.rows.shape), dtype=torch.float32, device=device)
    sums = torch.empty(splits * tiles, 3, 1 + layers, dtype=torch.float64, device=device)
    module.cuda_fused(
        extension.make_problem(problem, call.dims),
        module.CudaFusedBuffers(
            width=padded_widths(call.dims),
            layer_needs_grad=call.layer_needs_grad,
            rows=packed.rows.data_ptr(),
            norm=packed.norms.data_ptr(),
            bandwidth=rows.bandwidths.data_ptr(),
            tolerance=tolerances.data_ptr(),
            gradient=extension.data_ptr(gradient),
            sums=sums.data_ptr(),
        ),
        format,
        module.CudaFusedLaunch(splits=splits, stages=config.stages),
        current(device),
    )
    loss, statistics = gram.loss_and_statistics(problem, sums.sum(0), rows.bandwidths, torch.float32)
    if gradient is None:
        return Result(loss, statistics, [None] * (2 * layers))
    total = gradient[0] if splits == 1 else gradient.sum(0)
    gradients = [total[domain, columns] for domain in packed.domains for columns in packed.columns]
    needed = zip(gradients, call.needs_grad, strict=True)
    return Result(loss, statistics, [part.contiguous() if need else None for part, need in needed])


class _Packed(NamedTuple):
    """rows: ``[padded N, padded width]`` in the format's dtype: all layers side by side; each domain is padded with
    zeros to whole tiles. norms: ``[L, padded N]``. domains: which rows are the source's and the target's.
    columns: which are a layer's."""

    rows: Tensor
    norms: Tensor
    domains: tuple[slice, slice]
    columns: list[slice]


def _pack(call: Call, rows: gram.Rows, format: str) -> _Packed:
    module: Any = extension.module
    side, device = module.CUDA_FUSED_PANEL_ROWS, call.device
    sizes = call.problem.n_source, call.problem.n_target
    padded_source, padded_target = (-(-n // side) * side for n in sizes)
    domains = slice(sizes[0]), slice(padded_source, padded_source + sizes[1])
    widths = padded_widths(call.dims)
    starts = [sum(widths[:layer]) for layer in range(len(widths))]
    columns = [slice(start, start + d) for start, d in zip(starts, call.dims, strict=True)]
    shape = padded_source + padded_target, sum(widths)
    packed = torch.zeros(shape, dtype=torch.bfloat16 if format == "bf16" else torch.float32, device=device)
    norms = torch.zeros(len(widths), shape[0], dtype=torch.float32, device=device)
    for layer, features in enumerate(columns):
        parts = zip(domains, rows.z[layer].split(sizes), rows.norms[layer].split(sizes), strict=True)
        for domain, z, norm in parts:
            packed[domain, features] = z
            norms[layer, domain] = norm
    return _Packed(packed, norms, domains, columns)
