"""Route "gemm": any number of rows and features: the platform's matrix products, and one fused pass between them.

For each pair of row panels I <= J the library writes the inner products of every layer into a bounded workspace; one
kernel turns them into the coefficients C of all layers and adds to the sums; the library adds ``C [z, 1]`` to the rows
of I and ``C^T [z, 1]`` to those of J. The column of ones makes row sums, rounded as the products are. What a product
reads and writes in which format: fastmmd/backends/products.py. Weights of pairs of a form with few columns are made in
the pass, those of one with many by the library, which also multiplies K, as the pass leaves it, by W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from fastmmd.backends import panels, products
from fastmmd.backends.layout import empty_gradients
from fastmmd.call import Call, Form, Result
from fastmmd.kernels.arithmetic import (
    coefficients,
    count,
    exponents,
    load_factors,
    mixtures,
    outer_products,
    term_values,
    weighted_slopes,
    whole_kernel,
    without_diagonal,
)
from fastmmd.kernels.finish import loss_and_statistics
from fastmmd.kernels.form import PackedForm, pack_form, unpacked
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
    partial_sums_ptr,  # [programs, 1 + L] fp64; added to. None where K alone is computed
    source_rows,
    first_row,  # of the panels
    first_column,
    rows,  # of the panels
    columns,
    w_ptr,  # [COLUMNS, padded rows], fp32 or fp64; None where COLUMNS is 0, likewise the next
    wa_ptr,
    padded_rows,
    pair_weights_ptr,  # [rows, columns], fp32 or fp64, or None
    kernel_ptr,  # likewise, the same memory; None where K is not wanted, likewise the next
    terms_ptr,  # [1 + L], fp32 or fp64
    COLUMNS: tl.constexpr,  # of W that are multiplied here, for weights of pairs
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

    HAS_WEIGHTS: tl.constexpr = COLUMNS > 0 or pair_weights_ptr is not None
    if COLUMNS > 0:
        tile_row, tile_column = tl.arange(0, TILE_ROWS), tl.arange(0, TILE_COLUMNS)
        b_weights = outer_products(w_ptr + i, wa_ptr + j, padded_rows, tile_row, tile_column, COLUMNS)
    elif HAS_WEIGHTS:
        b_weights = tl.load(pair_weights_ptr + offsets)

    if partial_sums_ptr is not None:
        # A panel with itself holds both triangles; a pair of two panels stands for its mirror image too.
        weight = tl.load(weights_ptr + region) * (1.0 if ONE_PANEL else 2.0)
        program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        for term in tl.static_range(1 + L):
            b_values = term_values(term, b_kernels, LAYERS)
            if HAS_WEIGHTS:
                b_values = b_values * b_weights
            total = tl.sum(b_values).to(tl.float64)
            sum_ptr = partial_sums_ptr + program * (1 + L) + term
            tl.store(sum_ptr, tl.load(sum_ptr) + total * weight)

    if kernel_ptr is not None:
        tl.store(kernel_ptr + offsets, whole_kernel(b_kernels, terms_ptr, LAYERS))
    if HAS_WEIGHTS:
        b_slopes = weighted_slopes(b_slopes, b_weights, LAYERS)
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


MOST_COLUMNS = 16  # of W for which the pass multiplies weights of pairs itself: one multiply-add per pair and column


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
    form = pack_form(call, plan, packed)
    form_columns = _columns_of_the_pass(call.form)
    products_of_form = _products_of_form(call, form, form_columns)
    workspace = panels.make_workspace(
        total,
        layers,
        format,
        dtype,
        device,
        config.workspace_bytes,
        with_form=products_of_form is not None,
    )
    weighted = [
        torch.zeros(z.shape, dtype=dtype, device=device) if needed else None
        for z, needed in zip(packed.rows, layer_needs_grad, strict=True)
    ]
    has_loss = form is None or form.wa is not None
    programs = (workspace.side // config.rows) * (workspace.side // config.columns) if has_loss else 0
    partial_sums = torch.zeros((programs, 1 + layers), dtype=torch.float64, device=device)
    with matmul_precision(device, format), torch.autocast(device.type, enabled=False):
        for pair in panels.multiplied(operands, dims, weighted, workspace, products_of_form):
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
                partial_sums if has_loss else None,
                packed.source_rows,
                pair.first_row,
                pair.first_column,
                rows,
                columns,
                form.w if form is not None and form_columns else None,
                form.wa if form is not None and form_columns else None,
                total if form_columns else None,
                pair.of_form if products_of_form is not None and products_of_form.wa is not None else None,
                pair.of_form if products_of_form is not None and products_of_form.kw is not None else None,
                None if form is None else form.terms,
                COLUMNS=form_columns,
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
    loss, statistics = loss_and_statistics(
        plan,
        partial_sums,
        packed.bandwidths,
        trace=None if form is None else form.trace,
        clamp=problem.clamp,
        dtype=dtype,
    )
    kw = None if products_of_form is None else products_of_form.kw
    return Result(loss, statistics, gradients, None if kw is None else unpacked(kw, problem, packed.source_rows))


def _columns_of_the_pass(form: Form | None) -> int:
    """Of W, whose products with W A the pass makes itself; 0: the library does, or nobody."""
    return 0 if form is None or form.a is None or form.w.shape[1] > MOST_COLUMNS else form.w.shape[1]


def _products_of_form(call: Call, form: PackedForm | None, form_columns: int) -> panels.FormOperands | None:
    """None where the library has nothing of a form to multiply."""
    if call.form is None or form is None:
        return None
    wa = None if form.wa is None or form_columns else form.wa.T
    kw = torch.zeros(form.w.T.shape, dtype=form.w.dtype, device=form.w.device) if call.form.needs_rows else None
    return None if wa is None and kw is None else panels.FormOperands(w=form.w.T, wa=wa, kw=kw)
