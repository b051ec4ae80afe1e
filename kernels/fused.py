"""Route "fused": many rows of moderate width, as in flash attention: Gram tiles of all layers stay on the chip.

A program owns a tile of rows and walks over all tiles of columns: inner products, kernels, coefficients, and their
product with the same columns' features, which are read once and used twice. Each Gram tile is computed twice, for its
rows and for its mirror image's: a third more arithmetic than the bound, and nothing to add up across programs. Where
nothing is wanted by rows, neither gradients nor K W of a form, each pair of tiles is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from fastmmd.backends.layout import empty_gradients
from fastmmd.call import Call, Result
from fastmmd.kernels.arithmetic import (
    coefficients,
    count,
    exponents,
    load_factors,
    mixtures,
    operand,
    outer_products,
    product,
    term_values,
    weighted_slopes,
    whole_kernel,
    without_diagonal,
)
from fastmmd.kernels.finish import loss_and_statistics
from fastmmd.kernels.form import pack_form
from fastmmd.kernels.launch import launch
from fastmmd.kernels.pack import pack
from fastmmd.kernels.plan import TRITON_DTYPE, make_plan


@triton.constexpr_function
def item(values, index):
    return values[index]


@triton.constexpr_function
def _first(values, index):
    return sum(values[:index])


@triton.constexpr_function
def _terms(LAYERS):
    """Terms to add up: the product of one layer is that layer."""
    return 1 + len(LAYERS.mixtures) if len(LAYERS.mixtures) > 1 else 1


@triton.constexpr_function
def _weight_format(dtype):
    return "ieee" if dtype == tl.float64 else "tf32x3"


@triton.constexpr_function
def _padded(columns):
    """To a power of 2 that tl.dot takes."""
    return max(16, 1 << (columns - 1).bit_length())


@triton.jit(do_not_specialize=["n_source", "n_target", "source_tiles"])
def fused_loss(
    packed_ptrs,  # L times [tiles * TILE, CHUNKS[l] * WIDTHS[l]] DTYPE, or bf16
    exponents_ptrs,  # L times [tiles * TILE] DTYPE
    bandwidths_ptr,  # [3, L] fp64: bandwidths, twice the rates, slopes
    weights_ptr,  # [3] fp64: of a pair in each region
    factors_ptr,  # [3, L, 2] DTYPE: of coefficients in each region
    dims,  # [L]: features
    partial_sums_ptr,  # [tiles, 1 + L] fp64; None where K W alone is computed
    grad_source_ptrs,  # L times [n_source, dims[l]] DTYPE, or None where not needed
    grad_target_ptrs,  # L times [n_target, dims[l]] DTYPE, or None
    n_source,
    n_target,
    source_tiles,
    w_ptr,  # [COLUMNS_OF_W, tiles * TILE] DTYPE, or None for a plain call
    wa_ptr,  # likewise; None where K W alone is computed
    kw_ptr,  # [n_source + n_target, COLUMNS_OF_W] DTYPE; None where not wanted, likewise the next
    terms_ptr,  # [1 + L] DTYPE
    COLUMNS_OF_W: tl.constexpr,
    LAYERS: tl.constexpr,
    CHUNKS: tl.constexpr,  # [L]: chunks of features
    WIDTHS: tl.constexpr,  # [L]: and their width
    LAYER_NEEDS_GRAD: tl.constexpr,  # [L]
    GRADIENT: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,  # of pairs at a time; divides TILE
    FORMAT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    L: tl.constexpr = count(LAYERS)
    FULL: tl.constexpr = GRADIENT or kw_ptr is not None  # both triangles are needed
    PADDED_COLUMNS: tl.constexpr = _padded(COLUMNS_OF_W)
    # Weights are multiplied in full precision, whatever FORMAT says of features: outer products of few columns cost
    # one multiply-add per pair and column, the tensor cores the same for 16 columns as for 5.
    WEIGHT_FORMAT: tl.constexpr = _weight_format(DTYPE)
    BY_DOT: tl.constexpr = wa_ptr is not None and COLUMNS_OF_W > 4
    i, tiles = tl.program_id(0), tl.num_programs(0)
    row_is_source = i < source_tiles
    row = tl.arange(0, TILE)
    column = tl.arange(0, COLUMNS)

    twice_rates, b_x, b_x_exponents, b_weighted, b_row_sums = (), (), (), (), ()
    for l in tl.static_range(L):
        twice_rates = twice_rates + (tl.load(bandwidths_ptr + L + l).to(DTYPE),)
        b_x_exponents = b_x_exponents + (tl.load(exponents_ptrs[l] + i * TILE + row),)
        for chunk in tl.static_range(item(CHUNKS, l)):
            b_x = b_x + (_chunk(packed_ptrs[l], i * TILE, chunk, CHUNKS[l], TILE, WIDTHS[l]),)
        if LAYER_NEEDS_GRAD[l]:
            b_row_sums = b_row_sums + (tl.zeros((TILE, 8), DTYPE),)
            for _ in tl.static_range(item(CHUNKS, l)):
                b_weighted = b_weighted + (tl.zeros((TILE, item(WIDTHS, l)), DTYPE),)
    b_sums = ()
    for _ in tl.static_range(_terms(LAYERS)):
        b_sums = b_sums + (tl.zeros((TILE,), tl.float64),)
    same_region, cross_region = tl.where(row_is_source, 0, 1), 2
    same_weight, cross_weight = tl.load(weights_ptr + same_region), tl.load(weights_ptr + cross_region)
    same_joints, same_marginals = load_factors(factors_ptr, same_region, LAYERS)
    cross_joints, cross_marginals = load_factors(factors_ptr, cross_region, LAYERS)
    b_ones = tl.full((COLUMNS, 8), 1.0, DTYPE)
    if BY_DOT:
        b_w = tl.trans(_weights(w_ptr + i * TILE, tiles * TILE, row, COLUMNS_OF_W, PADDED_COLUMNS))
    if kw_ptr is not None:
        b_kw = tl.zeros((TILE, PADDED_COLUMNS), DTYPE)

    splits: tl.constexpr = TILE // COLUMNS
    for step in range(0, (tiles if FULL else tiles // 2 + 1) * splits):
        # All programs read the same columns at a time; without results by rows each has half of the pairs to do.
        offset = step // splits
        j = offset if FULL else (i + offset) % tiles
        same = row_is_source == (j < source_tiles)
        first_column = j * TILE + (step % splits) * COLUMNS
        b_exponents = ()
        for l in tl.static_range(L):
            b_inner = tl.zeros((TILE, COLUMNS), DTYPE)
            for chunk in tl.static_range(item(CHUNKS, l)):
                b_y = _chunk(packed_ptrs[l], first_column, chunk, CHUNKS[l], COLUMNS, WIDTHS[l])
                b_inner = product(b_x[_first(CHUNKS, l) + chunk], tl.trans(b_y), b_inner, FORMAT)
            b_y_exponents = tl.load(exponents_ptrs[l] + first_column + column)
            b_exponents = b_exponents + (exponents(b_inner, b_x_exponents[l], b_y_exponents, twice_rates[l]),)
        if i == j:
            b_exponents = without_diagonal(b_exponents, i * TILE + row, first_column + column, LAYERS)
        b_kernels, b_slopes = mixtures(b_exponents, LAYERS)

        if wa_ptr is not None:
            if BY_DOT:
                b_wa = _weights(wa_ptr + first_column, tiles * TILE, column, COLUMNS_OF_W, PADDED_COLUMNS)
                b_weights = product(b_w, b_wa, tl.zeros((TILE, COLUMNS), DTYPE), WEIGHT_FORMAT)
            else:
                b_weights = outer_products(
                    w_ptr + i * TILE, wa_ptr + first_column, tiles * TILE, row, column, COLUMNS_OF_W
                )
        if kw_ptr is not None:
            b_y_w = tl.trans(_weights(w_ptr + first_column, tiles * TILE, column, COLUMNS_OF_W, PADDED_COLUMNS))
            b_kw = product(whole_kernel(b_kernels, terms_ptr, LAYERS), b_y_w, b_kw, WEIGHT_FORMAT)

        if partial_sums_ptr is not None:
            weight = tl.where(same, same_weight, cross_weight)
            if not FULL:  # a tile stands for its mirror image too, unless both are visited
                weight *= tl.where((offset == 0) | (2 * offset == tiles), 1.0, 2.0)
            b_new_sums = ()
            for term in tl.static_range(_terms(LAYERS)):
                b_values = term_values(term, b_kernels, LAYERS)
                if wa_ptr is not None:
                    b_values = b_values * b_weights
                b_new_sums = b_new_sums + (b_sums[term] + weight * tl.sum(b_values, axis=1).to(tl.float64),)
            b_sums = b_new_sums

        if GRADIENT:
            if wa_ptr is not None:
                b_slopes = weighted_slopes(b_slopes, b_weights, LAYERS)
            joints, marginals = (), ()
            for l in tl.static_range(L):
                joints = joints + (tl.where(same, same_joints[l], cross_joints[l]),)
                marginals = marginals + (tl.where(same, same_marginals[l], cross_marginals[l]),)
            b_new_weighted, b_new_row_sums = (), ()
            for l in tl.static_range(L):
                if LAYER_NEEDS_GRAD[l]:
                    b_c = operand(coefficients(l, b_kernels, b_slopes, joints, marginals, LAYERS), FORMAT)
                    b_row_sum = product(b_c, b_ones, b_row_sums[len(b_new_row_sums)], FORMAT)
                    b_new_row_sums = b_new_row_sums + (b_row_sum,)
                    for chunk in tl.static_range(item(CHUNKS, l)):
                        b_y = _chunk(packed_ptrs[l], first_column, chunk, CHUNKS[l], COLUMNS, WIDTHS[l])
                        b_total = product(b_c, b_y, b_weighted[len(b_new_weighted)], FORMAT)
                        b_new_weighted = b_new_weighted + (b_total,)
            b_weighted, b_row_sums = b_new_weighted, b_new_row_sums

    if partial_sums_ptr is not None:
        for term in tl.static_range(1 + L):
            tl.store(partial_sums_ptr + i * (1 + L) + term, tl.sum(b_sums[term % _terms(LAYERS)]))

    if FULL:
        domain_row = row + tl.where(row_is_source, i, i - source_tiles) * TILE
        in_rows = domain_row < tl.where(row_is_source, n_source, n_target)
        out_row = domain_row.to(tl.int64)[:, None]
    if kw_ptr is not None:
        c = tl.arange(0, PADDED_COLUMNS)[None, :]
        p_kw = kw_ptr + (out_row + tl.where(row_is_source, 0, n_source)) * COLUMNS_OF_W + c
        tl.store(p_kw, b_kw, mask=in_rows[:, None] & (c < COLUMNS_OF_W))
    if GRADIENT:
        for l in tl.static_range(L):
            if LAYER_NEEDS_GRAD[l]:
                b_row_sum = tl.sum(b_row_sums[0], axis=1)[:, None] * 0.125  # 8 equal columns
                for chunk in tl.static_range(item(CHUNKS, l)):
                    b_gradient = 4 * (b_weighted[0] - b_row_sum * b_x[_first(CHUNKS, l) + chunk].to(DTYPE))
                    b_weighted = b_weighted[1:]
                    feature = chunk * WIDTHS[l] + tl.arange(0, WIDTHS[l])[None, :]
                    mask = in_rows[:, None] & (feature < dims[l])
                    if row_is_source:
                        if grad_source_ptrs[l] is not None:
                            tl.store(grad_source_ptrs[l] + out_row * dims[l] + feature, b_gradient, mask=mask)
                    else:
                        if grad_target_ptrs[l] is not None:
                            tl.store(grad_target_ptrs[l] + out_row * dims[l] + feature, b_gradient, mask=mask)
                b_row_sums = b_row_sums[1:]


@triton.jit
def _chunk(
    packed_ptr,  # [padded rows, CHUNKS * WIDTH]
    first_row,
    chunk: tl.constexpr,
    CHUNKS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """[ROWS, WIDTH]: a chunk of the features of some rows."""
    row = (first_row + tl.arange(0, ROWS)).to(tl.int64)
    return tl.load(packed_ptr + row[:, None] * (CHUNKS * WIDTH) + chunk * WIDTH + tl.arange(0, WIDTH)[None, :])


@triton.jit
def _weights(
    w_ptr,  # [COLUMNS, padded rows], at the first of the rows
    padded_rows,
    row,
    COLUMNS: tl.constexpr,
    PADDED_COLUMNS: tl.constexpr,
):
    """[PADDED_COLUMNS, rows]: W of some rows, transposed."""
    c = tl.arange(0, PADDED_COLUMNS)[:, None]
    return tl.load(w_ptr + c * padded_rows + row[None, :], mask=(c < COLUMNS) & (row >= 0)[None, :], other=0.0)


CHUNK = 64  # features that a product takes at a time: more would not fit into registers


MOST_COLUMNS = 16  # of a form's W: one matrix instruction takes as many


@dataclass(frozen=True)
class Config:
    """
    tile: rows of a program.
    columns: of Gram tiles, at a time; divides `tile`.
    """

    tile: int
    columns: int
    warps: int
    stages: int


def chunks(dims: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Number and width of each layer's chunks: a power of 2 between a matrix instruction's 16 and CHUNK."""
    widths = tuple([min(CHUNK, max(16, triton.next_power_of_2(d))) for d in dims])
    return tuple([triton.cdiv(d, width) for d, width in zip(dims, widths, strict=True)]), widths


def padded_widths(dims: Sequence[int]) -> tuple[int, ...]:
    """Features per layer, each rounded up to whole chunks."""
    return tuple([number * width for number, width in zip(*chunks(dims), strict=True)])


def run(call: Call, format: str, config: Config) -> Result:
    """For layers of up to 256 features, and forms of up to MOST_COLUMNS columns."""
    assert config.tile % config.columns == 0
    assert call.form_columns <= MOST_COLUMNS
    problem, dtype, dims, layers = call.problem, call.dtype, call.dims, len(call.sources)
    plan, layer_needs_grad = make_plan(problem, dtype, format), call.layer_needs_grad
    counts, widths = chunks(dims)
    packed = pack(call, plan, format=format, widths=padded_widths(dims), tile=config.tile)
    gradients = empty_gradients(call.inputs, call.needs_grad, dtype)
    tiles = len(packed.rows[0]) // config.tile
    form = pack_form(call, plan, packed)
    kw = None
    if call.form is not None and call.form.needs_rows:
        kw = torch.empty((problem.n, call.form_columns), dtype=dtype, device=call.device)
    has_loss = form is None or form.wa is not None
    partial_sums = torch.empty((tiles if has_loss else 0, 1 + layers), dtype=torch.float64, device=call.device)
    launch(
        fused_loss,
        (tiles,),
        tuple(packed.rows),
        tuple(packed.exponents),
        packed.bandwidths,
        packed.weights,
        packed.factors,
        dims,
        partial_sums if has_loss else None,
        tuple(gradients[:layers]),
        tuple(gradients[layers:]),
        problem.n_source,
        problem.n_target,
        packed.source_rows // config.tile,
        None if form is None else form.w,
        None if form is None else form.wa,
        kw,
        None if form is None else form.terms,
        COLUMNS_OF_W=call.form_columns,
        LAYERS=plan.layers,
        CHUNKS=counts,
        WIDTHS=widths,
        LAYER_NEEDS_GRAD=layer_needs_grad,
        GRADIENT=any(layer_needs_grad),
        TILE=config.tile,
        COLUMNS=config.columns,
        FORMAT=format,
        DTYPE=TRITON_DTYPE[dtype],
        num_warps=config.warps,
        num_stages=config.stages,
    )
    loss, statistics = loss_and_statistics(
        plan,
        partial_sums,
        packed.bandwidths,
        trace=None if form is None else form.trace,
        clamp=problem.clamp,
        dtype=dtype,
    )
    return Result(loss, statistics, gradients, kw)
