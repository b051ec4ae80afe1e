"""Route "fused": many rows and few features, as in flash attention (csrc/cuda/fused.cu). One launch on packed rows;
Gram tiles stay on the chip, parts of gradients leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastmmd import extension
from fastmmd.backends.cuda.packed import finish, pack, padded_rows, padded_widths
from fastmmd.backends.products import operand_dtype
from fastmmd.call import Call, Result

FORMATS = ("tf32x3", "tf32", "bf16")  # of the tensor cores
MOST_SPLITS = 8


@dataclass(frozen=True)
class Config:
    """thread_blocks: how many to aim at: a tile of rows is shared by several until there are as many.
    stages: 2 = double buffering: the next tile is loaded while this one is computed."""

    thread_blocks: int
    stages: int


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
    device, layers, widths = call.device, len(call.sources), padded_widths(call.dims)
    rows = torch.empty(padded_rows(call), sum(widths), dtype=operand_dtype(format, call.dtype), device=device)
    packed = pack(call, format, rows.split(widths, 1))
    tiles = len(rows) // module.CUDA_TILE_ROWS
    splits = max(1, min(config.thread_blocks // tiles, MOST_SPLITS))
    gradient: Tensor | None = None
    gradients: Sequence[Tensor | None] = [None] * layers
    if any(call.needs_grad):
        gradient = torch.empty(splits, *rows.shape, dtype=torch.float32, device=device)
        gradients = gradient.split(widths, 2)
    sums = torch.empty(splits * tiles, 3, 1 + layers, dtype=torch.float64, device=device)
    module.cuda_fused(
        packed.problem,
        module.CudaFusedBuffers(
            width=widths,
            layer_needs_grad=call.layer_needs_grad,
            rows=rows.data_ptr(),
            norm=packed.norms.data_ptr(),
            bandwidth=packed.bandwidths[0].data_ptr(),
            tolerance=packed.bandwidths[1].data_ptr(),
            gradient=extension.data_ptr(gradient),
            sums=sums.data_ptr(),
        ),
        format,
        module.CudaFusedLaunch(splits=splits, stages=config.stages),
        packed.queue,
    )
    return finish(packed, sums, gradients)
