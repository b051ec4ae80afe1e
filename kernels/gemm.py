"""Route "gemm": any number of rows and features: the platform's matrix products, and one fused pass between them.

For each pair of row panels I <= J the library writes the inner products of every layer into a bounded workspace; one
kernel turns them into the coefficients C of all layers and adds to the sums; the library adds ``C [z, 1]`` to the rows
of I and ``C^T [z, 1]`` to those of J. The column of ones makes row sums, rounded as the products are. What a product
reads and writes in which format: fastmmd/backends/products.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from fastmmd.backends import panels, products
from fastmmd.backends.layout import empty_gradients
from fastmmd.call import Call, Result
from fastmmd.kernels.arithmetic import (
    coefficients,
    count,
    exponents,
    load_factors,
    mixtures,
    term_values,
    without_diagonal,
)
from fastmmd.kernels.finish import loss_and_statistics
from fastmmd.kernels.launch import launch
from fastmmd.kernels.pack import ROWS, pack
from fastmmd.kernels.plan import make_plan
from fastmmd.precision import matmul_precision


@triton.jit(do_not_specialize=["source_rows"])
def inner_products_to_coefficients(
    inner_products_ptrs,  # L times [rows, columns], fp32 or fp64
    coefficients_ptrs,  # L times [rows, columns]: the same memory, or bf16; None where no gradient is needed
    transposed_ptrs,  # L times [columns, rows], or None where no product reads them
    exponents_ptrs,  # L times [padded rows], fp32 or fp64
    bandwidths_ptr,  # [3, L] fp64: bandwidths, twice the rates, slopes
    weights_ptr,  # [3] fp64: of a pair in each region
    factors_ptr,  # [3, L, 2], fp32 or fp64: of coefficients in each region
    partial_sums_ptr,  # [programs, 1 + L] fp64; added to
    source_rows,
    first_row,  # of the panels
    first_column,
    rows,  # of the panels
    columns,
    LAYERS: tl.constexpr,
    ONE_PANEL: tl.constexpr,  # with itself
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):
    L: tl.constexpr = count(LAYERS)
    panel_row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    panel_column = tl.program_id(1) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    row, column = first_row + panel_row, first_column + panel_column
    i, j = first_row + tl.program_id(0) * TILE_ROWS, first_column + tl.program_id(1) * TILE_COLUMNS
    row_is_source, column_is_source = i < source_rows, j < source_rows
    offsets = panel_row[:, None] * columns + panel_column[None, :]
    DTYPE: tl.constexpr = inner_products_ptrs[0].dtype.element_ty
    region = tl.where(row_is_source == column_is_source, tl.where(row_is_source, 0, 1), 2)
    joints, marginals = load_factors(factors_ptr, region, LAYERS)
    b_exponents = ()
    for l in tl.static_range(L):
        twice_rate = tl.load(bandwidths_ptr + L + l).to(DTYPE)
        b_rows, b_columns = tl.load(exponents_ptrs[l] + row), tl.load(exponents_ptrs[l] + column)
        b_inner = tl.load(inner_products_ptrs[l] + offsets)
        b_exponents = b_exponents + (exponents(b_inner, b_rows, b_columns, twice_rate),)
    if ONE_PANEL:  # noqa: SIM102 known when the kernel is compiled, unlike the next
        if (i < j + TILE_COLUMNS) & (j < i + TILE_ROWS):
            b_exponents = without_diagonal(b_exponents, row, column, LAYERS)
    b_kernels, b_slopes = mixtures(b_exponents, LAYERS)

    # A panel with itself holds both triangles; a pair of two panels stands for its mirror image too.
    weight = tl.load(weights_ptr + region) * (1.0 if ONE_PANEL else 2.0)
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    for term in tl.static_range(1 + L):
        total = tl.sum(term_values(term, b_kernels, LAYERS)).to(tl.float64)
        sum_ptr = partial_sums_ptr + program * (1 + L) + term
        tl.store(sum_ptr, tl.load(sum_ptr) + total * weight)

    for l in tl.static_range(L):
        if coefficients_ptrs[l] is not None:
            b_c = coefficients(l, b_kernels, b_slopes, joints, marginals, LAYERS)
            tl.store(coefficients_ptrs[l] + offsets, b_c.to(coefficients_ptrs[l].dtype.element_ty))
            if transposed_ptrs[l] is not None:
                p_transposed = transposed_ptrs[l] + panel_column[:, None] * rows + panel_row[None, :]
                tl.store(p_transposed, tl.trans(b_c))


@triton.jit(do_not_specialize=["n_source", "n_target", "source_rows"])
def finish_gradients(
    weighted_ptrs,  # L times [padded rows, widths[l]], fp32 or fp64: C z, then the row sums of C; None where not needed
    packed_ptrs,  # L times [padded rows, widths[l]], likewise, or bf16
    dims,  # [L]: features
    widths,  # [L]
    grad_source_ptrs,  # L times [n_source, dims[l]], fp32 or fp64; None where not needed
    grad_target_ptrs,  # L times [n_target, dims[l]]
    n_source,
    n_target,
    source_rows,
    L: tl.constexpr,
    TILE: tl.constexpr,
):
    first = tl.program_id(0) * TILE
    is_source = first < source_rows
    row = first + tl.arange(0, TILE)
    out_row = tl.where(is_source, row, row - source_rows).to(tl.int64)[:, None]
    in_rows = out_row < tl.where(is_source, n_source, n_target)
    for l in tl.static_range(L):
        if weighted_ptrs[l] is not None:
            feature = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
            offsets = row.to(tl.int64)[:, None] * widths[l]
            mask = in_rows & (feature < dims[l])
            b_row_sums = tl.load(weighted_ptrs[l] + offsets + dims[l])
            b_z = tl.load(packed_ptrs[l] + offsets + feature, mask=mask, other=0.0).to(b_row_sums.dtype)
            b_weighted = tl.load(weighted_ptrs[l] + offsets + feature, mask=mask, other=0.0)
            b_gradient = 4 * (b_weighted - b_row_sums * b_z)
            if is_source:
                if grad_source_ptrs[l] is not None:
                    tl.store(grad_source_ptrs[l] + out_row * dims[l] + feature, b_gradient, mask=mask)
            else:
                if grad_target_ptrs[l] is not None:
                    tl.store(grad_target_ptrs[l] + out_row * dims[l] + feature, b_gradient, mask=mask)


@dataclass(frozen=True)
class Config:
    """
    rows, columns: a program's tile of pairs; both divide 64, as tiles have one domain.
    workspace_bytes: of inner products and coefficients, all layers together.
    """

    rows: int
    columns: int
    warps: int
    workspace_bytes: int


def run(call: Call, format: str, config: Config) -> Result:
    """The library multiplies in bf16, TF32, fp32 or fp64: what lies between is rounded up."""
    format = products.library_format(call.device, format)
    problem, device, dtype, dims, layers = call.problem, call.device, call.dtype, call.dims, len(call.sources)
    plan, layer_needs_grad = make_plan(problem, dtype, format), call.layer_needs_grad
    widths = tuple([triton.cdiv(d + 1, 16) * 16 for d in dims])
    packed = pack(call, plan, format=format, widths=widths, tile=ROWS, ones=True, transposed=format == "tf32")
    operands = list(map(products.Operands, packed.rows, packed.transposed))
    total = len(packed.rows[0])
    workspace = panels.make_workspace(total, layers, format, dtype, device, config.workspace_bytes)
    weighted = [
        torch.zeros(z.shape, dtype=dtype, device=device) if needed else None
        for z, needed in zip(packed.rows, layer_needs_grad, strict=True)
    ]
    programs = (workspace.side // config.rows) * (workspace.side // config.columns)
    partial_sums = torch.zeros((programs, 1 + layers), dtype=torch.float64, device=device)
    with matmul_precision(device, format), torch.autocast(device.type, enabled=False):
        for pair in panels.multiplied(operands, dims, weighted, workspace):
            rows, columns = pair.inner_products[0].shape
            launch(
                inner_products_to_coefficients,
                (rows // config.rows, columns // config.columns),
                tuple(pair.inner_products),
                tuple(pair.coefficients),
                tuple(pair.transposed),
                tuple(packed.exponents),
                packed.bandwidths,
                packed.weights,
                packed.factors,
                partial_sums,
                packed.source_rows,
                pair.first_row,
                pair.first_column,
                rows,
                columns,
                LAYERS=plan.layers,
                ONE_PANEL=pair.first_row == pair.first_column,
                TILE_ROWS=config.rows,
                TILE_COLUMNS=config.columns,
                num_warps=config.warps,
            )
    gradients = empty_gradients(call.inputs, call.needs_grad, dtype)
    if any(layer_needs_grad):
        launch(
            finish_gradients,
            (total // ROWS, triton.cdiv(max(dims), ROWS)),
            tuple(weighted),
            tuple(packed.rows),
            dims,
            widths,
            tuple(gradients[:layers]),
            tuple(gradients[layers:]),
            problem.n_source,
            problem.n_target,
            packed.source_rows,
            L=layers,
            TILE=ROWS,
        )
    loss, statistics = loss_and_statistics(plan, partial_sums, packed.bandwidths, clamp=problem.clamp, dtype=dtype)
    return Result(loss, statistics, gradients)
