"""Route "gemm": torch's matrix products, and one fused pass between them (csrc/cuda/gemm_pass.cu). Takes anything, fp64
included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fastmmd import extension
from fastmmd.backends import gram
from fastmmd.backends.cuda.stream import current
from fastmmd.call import Call, Result
from fastmmd.precision import matmul_precision

ALIGNMENT = 64  # rows: of panels, so that the library gets aligned matrices


@dataclass(frozen=True)
class Config:
    """workspace_bytes: of inner products, all layers together."""

    workspace_bytes: int


def run(call: Call, format: str, config: Config) -> Result:
    """The library multiplies in fp64, fp32 or TF32: what lies between is rounded up."""
    format = "tf32" if format in ("tf32", "bf16") else "ieee"
    with matmul_precision(call.device, format):
        return _run(call, format, config)


def _run(call: Call, format: str, config: Config) -> Result:
    module: Any = extension.module
    problem, dtype, device, layers = call.problem, call.dtype, call.device, len(call.sources)
    rows = gram.centred_rows(call, format)
    tolerances = gram.tolerances(problem, rows)
    gradients = [
        torch.zeros_like(z) if needed else None for z, needed in zip(rows.z, call.layer_needs_grad, strict=True)
    ]
    side = _side(problem.n, layers * rows.z[0].element_size(), config)
    workspace = torch.empty(layers, side, side, dtype=dtype, device=device)
    programs = module.cuda_gemm_pass_programs(side, side)
    sums = torch.zeros(programs, 3, 1 + layers, dtype=torch.float64, device=device)
    prepared, queue = extension.make_problem(problem, call.dims), current(device)
    for panel, other in gram.panel_pairs(problem.n, side):
        shape = panel.stop - panel.start, other.stop - other.start
        # Rows of a ragged panel lie as far apart as a whole one's: the library needs them aligned for its fast kernels.
        inner_products = [buffer[: shape[0], : shape[1]] for buffer in workspace]
        for products, z in zip(inner_products, rows.z, strict=True):
            torch.mm(z[panel], z[other].T, out=products)
        module.cuda_gemm_pass(
            prepared,
            module.CudaGemmPass(
                inner_products=[products.data_ptr() for products in inner_products],
                pitch=side,
                norm=[norm.data_ptr() for norm in rows.norms],
                layer_needs_grad=call.layer_needs_grad,
                tf32=format == "tf32",  # row sums of C see what the library's products see
                bandwidth=rows.bandwidths.data_ptr(),
                tolerance=tolerances.data_ptr(),
                sums=sums.data_ptr(),
                rows=shape[0],
                columns=shape[1],
                first_row=panel.start,
                first_column=other.start,
            ),
            dtype == torch.float64,
            queue,
        )
        for c, z, gradient in zip(inner_products, rows.z, gradients, strict=True):
            if gradient is None:
                continue
            gradient[panel].addmm_(c, z[other], alpha=4).addcmul_(c.sum(1, keepdim=True), z[panel], value=-4)
            if panel != other:
                gradient[other].addmm_(c.T, z[panel], alpha=4).addcmul_(c.sum(0).unsqueeze(1), z[other], value=-4)
    loss, statistics = gram.loss_and_statistics(problem, sums.sum(0), rows.bandwidths, dtype)
    return Result(loss, statistics, gram.by_domain(call, gradients))


def _side(n: int, bytes_per_pair: int, config: Config) -> int:
    """Rows of a panel: panels are of nearly equal size."""
    most = int((config.workspace_bytes / bytes_per_pair) ** 0.5)
    panels = -(-n // most)
    return -(-n // (ALIGNMENT * panels)) * ALIGNMENT
