"""Route "small": everything in two launches, for training sizes (csrc/cuda/small.cu). Always fp32, or fp64: at these
sizes fp32 arithmetic costs less than the launches. It alone takes weights of pairs (`fastmmd.call.Form`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from fastmmd import extension
from fastmmd.backends.cuda import architecture
from fastmmd.backends.cuda.buffers import DTYPE_NAMES, allocate
from fastmmd.backends.cuda.stream import current
from fastmmd.backends.layout import matched
from fastmmd.call import Call, Result
from fastmmd.problem import Problem


@dataclass(frozen=True)
class Config:
    """
    part_features: features of a thread block of the first launch.
    chunk: features of one of the second, 32 or 64.
    overlap: whether the second launch begins while the first ends, on devices that can (programmatic dependent launch).
    """

    part_features: int
    chunk: int
    overlap: bool = True


def run(call: Call, config: Config) -> Result:
    call = matched(call)
    f64 = call.dtype == torch.float64
    problem, launch, workspace_bytes = _prepared(
        call.problem,
        call.dims,
        call.form_columns,
        f64,
        config,
        config.overlap and architecture.overlaps_launches(call.device),
    )
    allocated = allocate(call, workspace_bytes)
    module: Any = extension.module
    module.cuda_small(
        problem,
        allocated.buffers,
        [DTYPE_NAMES[x.dtype] for x in call.sources],
        f64,
        launch,
        current(call.device),
    )
    return allocated.result


@lru_cache(maxsize=256)
def _prepared(
    problem: Problem, dims: tuple[int, ...], form_columns: int, f64: bool, config: Config, overlap: bool
) -> tuple[Any, Any, int]:
    """The extension's forms of the problem and of the launch, and the bytes of workspace that they need."""
    module: Any = extension.module
    prepared = extension.make_problem(problem, dims, form_columns)
    launch = module.CudaSmallLaunch(part_features=config.part_features, chunk=config.chunk, overlap=overlap)
    return prepared, launch, module.cuda_small_workspace_bytes(prepared, f64, launch)
