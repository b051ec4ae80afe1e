"""Route "gemm": any number of rows and features: the platform's matrix products, and one fused pass between them.

For each pair of row panels I <= J the library writes the inner products of every layer into a bounded workspace; one
kernel turns them in place into the coefficients C of all layers and adds to the sums; the library adds ``C [z, 1]`` to
the rows of I and ``C^T [z, 1]`` to those of J. The column of ones makes row sums, rounded as the products are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from fastmmd.backends.gram import panel_pairs
from fastmmd.backends.layout import empty_gradients
from fastmmd.call import Call, Result
from fastmmd.kernels.arithmetic import (
    coefficient_factors,
    coefficients,
    count,
    exponents,
    mixtures,
    term_values,
    weight_of_pair,
    without_diagonal,
)
from fastmmd.kernels.finish import loss_and_statistics
from fastmmd.kernels.launch import launch
from fastmmd.kernels.pack import ROWS, pack
from fastmmd.kernels.plan import make_plan
from fastmmd.precision import matmul_precision


@triton.jit(do_not_specialize=["source_rows"])
def inner_products_to_coefficients(
    inner_products_ptrs,  # L times [rows, columns], fp32 or fp64: inner products in, coefficients out
    exponents_ptrs,  # L times [padded rows], likewise
    bandwidths_ptr,  # [3, L] fp64: bandwidths, twice the rates, slopes
    numbers,
    partial_sums_ptr,  # [programs, 1 + L] fp64; added to
    source_rows,
    first_row,  # of the panels
    first_column,
    columns,  # in the panel
    LAYERS: tl.constexpr,
    LAYER_NEEDS_GRAD: tl.constexpr,
    TILE: tl.constexpr,
):
    L: tl.constexpr = count(LAYERS)
    row = first_row + tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = first_column + tl.program_id(1) * TILE + tl.arange(0, TILE)
    row_is_source = first_row + tl.program_id(0) * TILE < source_rows
    column_is_source = first_column + tl.program_id(1) * TILE < source_rows
    panel_row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    offsets = panel_row[:, None] * columns + (tl.program_id(1) * TILE + tl.arange(0, TILE))[None, :]
    DTYPE: tl.constexpr = inner_products_ptrs[0].dtype.element_ty
    slopes, b_exponents = (), ()
    for l in tl.static_range(L):
        slopes = slopes + (tl.load(bandwidths_ptr + 2 * L + l),)
        twice_rate = tl.load(bandwidths_ptr + L + l).to(DTYPE)
        b_rows, b_columns = tl.load(exponents_ptrs[l] + row), tl.load(exponents_ptrs[l] + column)
        b_inner = tl.load(inner_products_ptrs[l] + offsets)
        b_exponents = b_exponents + (exponents(b_inner, b_rows, b_columns, twice_rate),)
    if first_row + tl.program_id(0) * TILE == first_column + tl.program_id(1) * TILE:
        b_exponents = without_diagonal(b_exponents, row, column, LAYERS)
    b_kernels, b_slopes = mixtures(b_exponents, LAYERS)

    # Panels on the diagonal hold both triangles; a pair off it stands for its mirror image too.
    pair_weight = weight_of_pair(row_is_source, column_is_source, numbers)
    weight = pair_weight * tl.where(first_row == first_column, 1.0, 2.0)
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    for term in tl.static_range(1 + L):
        total = tl.sum(tl.sum(term_values(term, b_kernels, LAYERS), axis=1).to(tl.float64))
        sum_ptr = partial_sums_ptr + program * (1 + L) + term
        tl.store(sum_ptr, tl.load(sum_ptr) + total * weight)

    joints, marginals = coefficient_factors(pair_weight, slopes, numbers, DTYPE, LAYERS)
    for l in tl.static_range(L):
        if LAYER_NEEDS_GRAD[l]:
            b_c = coefficients(l, b_kernels, b_slopes, joints, marginals, LAYERS)
            tl.store(inner_products_ptrs[l] + offsets, b_c)


@triton.jit(do_not_specialize=["n_source", "n_target", "source_rows"])
def finish_gradients(
    weighted_ptrs,  # L times [padded rows, widths[l]], fp32 or fp64: C z, then the row sums of C; None where not needed
    packed_ptrs,  # L times [padded rows, widths[l]], likewise
    dims,  # [L]: features
    widths,  # [L]
    grad_source_ptrs,  # L times [n_source, dims[l]], likewise; None where not needed
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
            b_z = tl.load(packed_ptrs[l] + offsets + feature, mask=mask, other=0.0)
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
    tile: rows and columns of a program.
    workspace_bytes: of inner products, all layers together.
    """

    tile: int
    warps: int
    workspace_bytes: int


def run(call: Call, format: str, config: Config) -> Result:
    """The library multiplies in fp32 or TF32: what lies between is rounded up."""
    format = "tf32" if format in ("tf32", "bf16") else "ieee"
    problem, device, dtype, dims, layers = call.problem, call.device, call.dtype, call.dims, len(call.sources)
    plan, layer_needs_grad = make_plan(problem, dtype, format), call.layer_needs_grad
    widths = tuple([triton.cdiv(d + 1, 16) * 16 for d in dims])
    packed = pack(call, plan, format=format, widths=widths, tile=config.tile, ones=True)
    total = len(packed.rows[0])
    side = _side(total, layers * packed.exponents[0].element_size(), config)
    workspace = torch.empty((layers, side * side), dtype=dtype, device=device)
    weighted = [
        torch.zeros_like(z) if needed else None for z, needed in zip(packed.rows, layer_needs_grad, strict=True)
    ]
    partial_sums = torch.zeros(((side // config.tile) ** 2, 1 + layers), dtype=torch.float64, device=device)
    with matmul_precision(device, format), torch.autocast(device.type, enabled=False):
        for panel, other in panel_pairs(total, side):
            shape = panel.stop - panel.start, other.stop - other.start
            inner_products = [buffer[: shape[0] * shape[1]].view(shape) for buffer in workspace]
            for products, z, d in zip(inner_products, packed.rows, dims, strict=True):
                torch.mm(z[panel, :d], z[other, :d].T, out=products)
            launch(
                inner_products_to_coefficients,
                (shape[0] // config.tile, shape[1] // config.tile),
                tuple(inner_products),
                tuple(packed.exponents),
                packed.bandwidths,
                plan.numbers,
                partial_sums,
                packed.source_rows,
                panel.start,
                other.start,
                shape[1],
                LAYERS=plan.layers,
                LAYER_NEEDS_GRAD=layer_needs_grad,
                TILE=config.tile,
                num_warps=config.warps,
            )
            for c, z, sums in zip(inner_products, packed.rows, weighted, strict=True):
                if sums is not None:
                    sums[panel].addmm_(c, z[other])
                    if panel != other:
                        sums[other].addmm_(c.T, z[panel])
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


def _side(total: int, bytes_per_pair: int, config: Config) -> int:
    """Rows of a panel: panels are of nearly equal size, and of whole tiles."""
    multiple = max(ROWS, config.tile)
    most = int((config.workspace_bytes / bytes_per_pair) ** 0.5) // multiple * multiple
    panels = triton.cdiv(total, max(multiple, most))
    return triton.cdiv(triton.cdiv(total, panels), multiple) * multiple
