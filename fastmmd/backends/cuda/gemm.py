"""Route "gemm": torch's matrix products, and one fused pass between them (csrc/cuda/gemm_pass.cu). Takes anything, fp64
included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastmmd import extension
from fastmmd.backends import gram
from fastmmd.backends.cuda.stream import current
from fastmmd.call import Call, Result
from fastmmd.precision import matmul_precision


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
    packed, packed_norms = ([_packed(call, x) for x in pooled] for pooled in (rows.z, rows.norms))
    gradients = [
        torch.zeros_like(z) if needed else None for z, needed in zip(packed, call.layer_needs_grad, strict=True)
    ]
    n = len(packed[0])
    side = _side(n, layers * rows.z[0].element_size(), config)
    workspace = torch.empty(layers, side, side, dtype=dtype, device=device)
    programs = module.cuda_gemm_pass_programs(side, side)
    sums = torch.zeros(programs, 3, 1 + layers, dtype=torch.float64, device=device)
    prepared, queue = extension.make_problem(problem, call.dims), current(device)
    for panel, other in gram.panel_pairs(n, side):
        shape = panel.stop - panel.start, other.stop - other.start
        inner_products = [buffer[: shape[0], : shape[1]] for buffer in workspace]
        for products, z in zip(inner_products, packed, strict=True):
            torch.mm(z[panel], z[other].T, out=products)
        module.cuda_gemm_pass(
            prepared,
            module.CudaGemmPass(
                inner_products=[products.data_ptr() for products in inner_products],
                coefficients=[
                    products.data_ptr() if needed else 0
                    for products, needed in zip(inner_products, call.layer_needs_grad, strict=True)
                ],
                transposed=[0] * layers,
                pitch=side,
                transposed_pitch=0,
                format=format,  # row sums of C see what the library's products see
                norm=[norm.data_ptr() for norm in packed_norms],
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
        for c, z, gradient in zip(inner_products, packed, gradients, strict=True):
            if gradient is None:
                continue
            gradient[panel].addmm_(c, z[other], alpha=4).addcmul_(c.sum(1, keepdim=True), z[panel], value=-4)
            if panel != other:
                gradient[other].addmm_(c.T, z[panel], alpha=4).addcmul_(c.sum(0).unsqueeze(1), z[other], value=-4)
    loss, statistics = gram.loss_and_statistics(problem, sums.sum(0), rows.bandwidths, dtype)
    by_layer = [None if g is None else _unpacked(call, g) for g in gradients]
    return Result(loss, statistics, gram.by_domain(call, by_layer))


def _packed(call: Call, pooled: Tensor) -> Tensor:
    """Rows of the source and of the target, each padded with zeros to whole tiles."""
    parts = pooled.split((call.problem.n_source, call.problem.n_target))
    return torch.cat([torch.cat([part, part.new_zeros(-len(part) % _tile(), *part.shape[1:])]) for part in parts])


def _unpacked(call: Call, packed: Tensor) -> Tensor:
    n_source, n_target = call.problem.n_source, call.problem.n_target
    start = -(-n_source // _tile()) * _tile()
    return torch.cat([packed[:n_source], packed[start : start + n_target]])


def _tile() -> int:
    module: Any = extension.module
    return module.CUDA_FUSED_PANEL_ROWS


def _side(n: int, bytes_per_pair: int, config: Config) -> int:
    """Rows of a panel: panels are of nearly equal size."""
    most = int((config.workspace_bytes / bytes_per_pair) ** 0.5)
    panels = -(-n // most)
    return -(-n // (_tile() * panels)) * _tile()
