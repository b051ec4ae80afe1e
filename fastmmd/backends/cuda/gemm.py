"""Route "gemm": torch's matrix products, and one fused pass between them (csrc/cuda/gemm_pass.cu). Takes anything, fp64
included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastmmd import extension
from fastmmd.backends import panels, products
from fastmmd.backends.cuda.packed import finish, pack, padded_rows, padded_widths
from fastmmd.call import Call, Result
from fastmmd.precision import matmul_precision


@dataclass(frozen=True)
class Config:
    """workspace_bytes: of inner products and coefficients, all layers together."""

    workspace_bytes: int


def run(call: Call, format: str, config: Config) -> Result:
    """The library multiplies in bf16, TF32, fp32 or fp64: what lies between is rounded up."""
    module: Any = extension.module
    format = products.library_format(call.device, format)
    dtype, device, layers = call.dtype, call.device, len(call.sources)
    total, widths = padded_rows(call), padded_widths(call.dims, ones=True)
    stored = products.operand_dtype(format, dtype)
    rows = [torch.empty(total, width, dtype=stored, device=device) for width in widths]
    transposed: list[Tensor | None] = [None] * layers
    if format == "tf32" and any(call.needs_grad):
        transposed = [torch.empty(width, total, dtype=stored, device=device) for width in widths]
    packed = pack(call, format, rows, transposed=transposed, ones=True)
    operands = list(map(products.Operands, rows, transposed))
    workspace = panels.make_workspace(total, layers, format, dtype, device, config.workspace_bytes)
    weighted = _zeros(call, total, widths)
    programs = module.cuda_gemm_pass_programs(workspace.side, workspace.side)
    sums = torch.zeros(programs, 3, 1 + layers, dtype=torch.float64, device=device)
    with matmul_precision(device, format):
        for pair in panels.multiplied(operands, call.dims, weighted, workspace):
            pair_rows, pair_columns = pair.inner_products[0].shape
            module.cuda_gemm_pass(
                packed.problem,
                module.CudaGemmPass(
                    inner_products=[x.data_ptr() for x in pair.inner_products],
                    coefficients=[extension.data_ptr(x) for x in pair.coefficients],
                    transposed=[extension.data_ptr(x) for x in pair.transposed],
                    pitch=pair_columns,
                    transposed_pitch=pair_rows,
                    format=format,
                    norm=[norm.data_ptr() for norm in packed.norms],
                    bandwidth=packed.bandwidths[0].data_ptr(),
                    tolerance=packed.bandwidths[1].data_ptr(),
                    sums=sums.data_ptr(),
                    rows=pair_rows,
                    columns=pair_columns,
                    first_row=pair.first_row,
                    first_column=pair.first_column,
                ),
                dtype == torch.float64,
                packed.queue,
            )
    return finish(packed, sums, [None if x is None else x[None] for x in weighted], ones=True)


def _zeros(call: Call, total: int, widths: list[int]) -> list[Tensor | None]:
    """``[total, width]`` per layer that needs a gradient; zeroed in one launch."""
    if not any(call.needs_grad):
        return [None] * len(widths)
    needed = [width if need else 0 for width, need in zip(widths, call.layer_needs_grad, strict=True)]
    zeros = torch.zeros(total * sum(needed), dtype=call.dtype, device=call.device)
    parts = zeros.split([total * width for width in needed])
    return [part.view(total, -1) if width else None for part, width in zip(parts, needed, strict=True)]
