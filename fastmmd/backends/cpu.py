"""Backend "cpu": the fused C++ kernels of csrc/cpu. The only file that calls the extension."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastmmd import compiled
from fastmmd.dtypes import compute_dtype
from fastmmd.problem import Problem

# Work (3 N^2 sum d flop) that a further thread must find, or waking it costs more than it brings.
# Measured on 2 cores, one thread and two: 0.2 MFLOP 9 us and 9 us, 0.9 MFLOP 17 and 13, 4.5 MFLOP 55 and 34.
FLOP_PER_THREAD = 450_000


def unavailable(device: torch.device) -> str | None:
    if compiled.module is None:
        return compiled.reason
    if device.type != "cpu":
        return f"it computes on cpu, the tensors are on {device.type}"
    return None


def run(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    needs_grad: Sequence[bool],
    precision: str | None,  # the products are always IEEE fp32 or fp64, at least as precise as asked
    variant: int = 0,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    layers = len(sources)
    dtype = compute_dtype(*sources, *targets)
    f64 = dtype == torch.float64
    inputs = [_row_major(x, dtype) for x in (*sources, *targets)]
    # All is made like an input: at training sizes torch.empty with a shape, dtype and device costs twice as much.
    gradients = [
        torch.empty_like(x, memory_format=torch.contiguous_format) if need else None
        for x, need in zip(inputs, needs_grad, strict=True)
    ]
    addresses = [x.data_ptr() for x in inputs]
    strides = [x.stride(0) for x in inputs]
    out = [0 if g is None else g.data_ptr() for g in gradients]
    loss = inputs[0].new_empty(())
    report = inputs[0].new_empty(1 + 2 * layers)
    dims = tuple([x.shape[1] for x in sources])
    spec, flop, workspace_bytes = _compiled_problem(problem, dims, f64, any(needs_grad), variant)
    workspace = inputs[0].new_empty(workspace_bytes, dtype=torch.uint8)
    threads = min(torch.get_num_threads(), max(1, flop // FLOP_PER_THREAD))
    compiled.module.cpu_run(  # type: ignore[union-attr]
        spec,
        f64,
        addresses[:layers],
        addresses[layers:],
        strides[:layers],
        strides[layers:],
        out[:layers],
        out[layers:],
        0 if bandwidths is None else bandwidths.data_ptr(),
        loss.data_ptr(),
        report.data_ptr(),
        workspace.data_ptr(),
        threads,
        variant,
    )
    return loss, report, gradients


def median_distance(source: Tensor, target: Tensor, variant: int = 0) -> Tensor:
    """The lower median of the ``N (N - 1) / 2`` pooled squared distances of ``source [n, d]`` and ``target [m, d]``,
    0-d: exact, and NaN if any distance is."""
    dtype = compute_dtype(source, target)
    f64 = dtype == torch.float64
    source, target = _row_major(source.detach(), dtype), _row_major(target.detach(), dtype)
    n, m, dim = source.shape[0], target.shape[0], source.shape[1]
    threads = min(torch.get_num_threads(), max(1, 2 * (n + m) ** 2 * dim // FLOP_PER_THREAD))
    extension = compiled.module
    assert extension is not None
    workspace_bytes = extension.cpu_median_workspace_bytes(n, m, dim, f64, threads, variant)
    workspace = source.new_empty(workspace_bytes, dtype=torch.uint8)
    median = extension.cpu_median(
        n,
        m,
        dim,
        f64,
        source.data_ptr(),
        target.data_ptr(),
        source.stride(0),
        target.stride(0),
        workspace.data_ptr(),
        threads,
        variant,
    )
    return source.new_tensor(median)


def _row_major(x: Tensor, dtype: torch.dtype) -> Tensor:
    x = x if x.dtype == dtype else x.to(dtype)
    x = x.resolve_neg()
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


@lru_cache(maxsize=256)
def _compiled_problem(
    problem: Problem, dims: tuple[int, ...], f64: bool, with_gradient: bool, variant: int
) -> tuple[Any, int, int]:
    """The extension's form of the problem, its work in flop, and the bytes of workspace it needs."""
    extension = compiled.module
    assert extension is not None
    spec = compiled.problem(problem, dims)
    flop = 3 * problem.n**2 * sum(dims)
    return spec, flop, extension.cpu_workspace_bytes(spec, f64, with_gradient, variant)
