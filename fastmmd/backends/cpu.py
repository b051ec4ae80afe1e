"""Backend "cpu": the fused C++ kernels of csrc/cpu."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastmmd import extension
from fastmmd.backends.layout import empty_gradients, row_major
from fastmmd.call import Call, Result
from fastmmd.dtypes import compute_dtype
from fastmmd.problem import Problem

# Work (3 N^2 sum d flop) that a further thread must find, or waking it costs more than it brings.
# Measured on 2 cores, one thread and two: 0.2 MFLOP 9 us and 9 us, 0.9 MFLOP 17 and 13, 4.5 MFLOP 55 and 34.
FLOP_PER_THREAD = 450_000


@dataclass(frozen=True)
class Config:
    """variant: which instruction set, as an index into the extension's ``cpu_variants()``; 0 is the best one here."""

    variant: int = 0


DEFAULT = Config()


def unavailable(device: torch.device) -> str | None:
    if extension.module is None:
        return extension.reason
    if device.type != "cpu":
        return f"it computes on cpu, the tensors are on {device.type}"
    return None


def supports(call: Call) -> str | None:
    return None


def run(call: Call, config: Config | None = None) -> Result:
    """Products are always IEEE fp32 or fp64, at least as precise as asked."""
    variant = (config or DEFAULT).variant
    layers, dtype, form = len(call.sources), call.dtype, call.form
    f64 = dtype == torch.float64
    inputs = [row_major(x, dtype) for x in call.inputs]
    gradients = empty_gradients(inputs, call.needs_grad, dtype)
    loss = inputs[0].new_empty(())
    statistics = inputs[0].new_empty(1 + 2 * layers)
    w = wa = kw = None
    if form is not None:
        w = form.w.to(dtype).contiguous()
        wa = None if form.a is None else form.times_a(w.double()).contiguous()
        kw = torch.empty_like(w) if form.needs_rows else None
    problem, flop, workspace_bytes = _prepared(
        call.problem, call.dims, 0 if w is None else w.shape[1], f64, any(call.needs_grad), kw is not None, variant
    )
    workspace = inputs[0].new_empty(workspace_bytes, dtype=torch.uint8)
    module: Any = extension.module
    module.cpu_run(
        problem,
        extension.make_buffers(
            inputs=inputs,
            gradients=gradients,
            bandwidths=call.bandwidths,
            loss=loss,
            statistics=statistics,
            workspace=workspace,
            w=w,
            wa=wa,
            kw=kw,
        ),
        f64,
        _launch(_threads(flop), variant),
    )
    return Result(loss, statistics, gradients, kw)


def median_distance(source: Tensor, target: Tensor, config: Config = DEFAULT) -> Tensor:
    """The lower median of the ``N (N - 1) / 2`` pooled squared distances of ``source [n, d]`` and ``target [m, d]``,
    0-d: exact, and NaN if any distance is."""
    dtype = compute_dtype(source, target)
    f64 = dtype == torch.float64
    source, target = row_major(source.detach(), dtype), row_major(target.detach(), dtype)
    n, m, dim = source.shape[0], target.shape[0], source.shape[1]
    module: Any = extension.module
    samples = module.Samples(
        n_source=n,
        n_target=m,
        dim=dim,
        source=source.data_ptr(),
        target=target.data_ptr(),
        source_stride=source.stride(0),
        target_stride=target.stride(0),
    )
    launch = _launch(_threads(2 * (n + m) ** 2 * dim), config.variant)
    workspace_bytes = module.cpu_median_workspace_bytes(samples, f64, launch)
    workspace = source.new_empty(workspace_bytes, dtype=torch.uint8)
    return source.new_tensor(module.cpu_median(samples, f64, workspace.data_ptr(), launch))


def _threads(flop: int) -> int:
    return min(torch.get_num_threads(), max(1, flop // FLOP_PER_THREAD))


@lru_cache(maxsize=256)
def _launch(num_threads: int, variant: int) -> Any:
    module: Any = extension.module
    return module.CpuLaunch(num_threads=num_threads, variant=variant)


@lru_cache(maxsize=256)
def _prepared(
    problem: Problem,
    dims: tuple[int, ...],
    form_columns: int,
    f64: bool,
    with_gradient: bool,
    with_kw: bool,
    variant: int,
) -> tuple[Any, int, int]:
    """The extension's form of the problem, its work in flop, and the bytes of workspace it needs."""
    module: Any = extension.module
    prepared = extension.make_problem(problem, dims, form_columns)
    flop = 3 * problem.n**2 * (sum(dims) + form_columns)
    return prepared, flop, module.cpu_workspace_bytes(prepared, f64, with_gradient, with_kw, variant)
