"""Backend "triton": the fused kernels of fastmmd.kernels on GPUs, or anywhere in Triton's interpreter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from fastmmd.dtypes import compute_dtype
from fastmmd.matmul import torch_precision
from fastmmd.problem import Problem

OLDEST = (3, 5)  # Triton; kernels use its compile-time functions
CAPABILITY = (8, 0)


def unavailable(device: torch.device) -> str | None:
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"it computes on CUDA and ROCm devices, the tensors are on {device.type}"
    reason = _missing()
    if reason is None and device.type == "cuda":
        reason = _too_old(device.index)
    return reason


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter: slow, on CPU tensors, for tests."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@cache
def version() -> str | None:
    """Triton's version; None if it is not installed."""
    try:
        return import_module("triton").__version__
    except ImportError:
        return None


@cache
def _missing() -> str | None:
    found = version()
    if found is None:
        return "Triton is not installed (PyTorch for CUDA or ROCm on Linux brings it)"
    if not interpreted() and not any(map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang", "cc"))):
        return "Triton needs a C compiler (gcc, clang or what CC names) to launch its kernels, and found none"
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        return f"it needs Triton >= {'.'.join(map(str, OLDEST))}, found {found}"
    return None


@cache
def _too_old(index: int | None) -> str | None:
    if torch.version.hip is None and (found := torch.cuda.get_device_capability(index)) < CAPABILITY:
        return f"it needs compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or above, found {found[0]}.{found[1]}"
    return None


def run(
    problem: Problem,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
    needs_grad: Sequence[bool],
    precision: str | None,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    # Triton is imported when it is first needed: `import fastmmd` must not wait for it.
    from fastmmd.kernels import plan, table

    device, dtype = sources[0].device, compute_dtype(*sources, *targets)
    precision = torch_precision(device) if precision is None else precision
    vendor = table.vendor()
    format = table.product_format(vendor, precision, dtype)
    line = table.line(vendor, problem.n, tuple([x.shape[1] for x in sources]), format)
    layers = [_alike(s, t, dtype) for s, t in zip(sources, targets, strict=True)]
    with _current(device):
        return table.ROUTES[type(line.config)](
            plan.make_plan(problem, dtype),
            [source for source, _ in layers],
            [target for _, target in layers],
            bandwidths,
            list(needs_grad),
            problem.clamp,
            dtype,
            format,
            line.config,
        )


def _alike(source: Tensor, target: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Both in one dtype, as they are if possible, with unit stride along the features."""
    if source.dtype != target.dtype:
        source, target = source.to(dtype), target.to(dtype)
    source, target = source.resolve_neg(), target.resolve_neg()
    return (
        source if source.stride(1) == 1 else source.contiguous(),
        target if target.stride(1) == 1 else target.contiguous(),
    )


def _current(device: torch.device):  # type: ignore[no-untyped-def]
    """Triton launches on the current device."""
    here = device.type != "cuda" or device.index == torch.cuda.current_device()
    return nullcontext() if here else torch.cuda.device(device)
