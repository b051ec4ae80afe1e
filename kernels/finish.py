"""What every route ends with: the loss and the statistics from partial sums."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmmd.kernels.arithmetic import at_zero, count, diagonal_weight, exact, term_weight
from fastmmd.kernels.launch import launch
from fastmmd.kernels.plan import Plan


@triton.constexpr_function
def _padded_terms(LAYERS):
    return 1 << len(LAYERS.mixtures).bit_length()


@triton.jit
def store_loss_and_statistics(
    partial_sums_ptr,  # [rows, 1 + L] fp64: of each term, over pairs times their weights
    rows,
    bandwidths,  # L numbers, fp64
    numbers,
    loss_ptr,  # [] fp32 or fp64
    statistics_ptr,  # [1 + 2 L], the loss's dtype
    trace,  # 0-d fp64: what the value at distance 0 counts in a weighted problem; or None
    CLAMP: tl.constexpr,
    STEP: tl.constexpr,
    LAYERS: tl.constexpr,
):
    """Adds up the partial sums, STEP rows at a time and in fixed order."""
    L: tl.constexpr = count(LAYERS)
    column = tl.arange(0, _padded_terms(LAYERS))
    b_sums = tl.zeros((STEP, _padded_terms(LAYERS)), tl.float64)
    for start in range(0, rows, STEP):
        row = start + tl.arange(0, STEP)
        mask = (row < rows)[:, None] & (column < 1 + L)[None, :]
        b_sums += tl.load(partial_sums_ptr + row[:, None] * (1 + L) + column[None, :], mask=mask, other=0.0)
    b_totals = tl.sum(b_sums, axis=0)
    loss = tl.zeros((), tl.float64)
    for term in tl.static_range(1 + L):
        value = exact(numbers, diagonal_weight()) * _at_zero(term, LAYERS)
        if trace is not None:
            value *= trace
        value += tl.sum(tl.where(column == term, b_totals, 0.0))
        loss += exact(numbers, term_weight(term)) * value
        tl.store(statistics_ptr + term, _clamped(value, CLAMP).to(statistics_ptr.dtype.element_ty))
    tl.store(loss_ptr, _clamped(loss, CLAMP).to(loss_ptr.dtype.element_ty))
    for l in tl.static_range(L):
        tl.store(statistics_ptr + 1 + L + l, bandwidths[l].to(statistics_ptr.dtype.element_ty))


@triton.jit
def _at_zero(term: tl.constexpr, LAYERS: tl.constexpr):
    """The term's value at distance 0."""
    value = tl.full((), 1.0, tl.float64)
    for l in tl.static_range(count(LAYERS)):
        if term == 0 or term == l + 1:
            value *= at_zero(LAYERS, l)
    return value


@triton.jit
def _clamped(value, CLAMP: tl.constexpr):
    """A V-statistic is never negative; NaN stays NaN."""
    if CLAMP:
        return tl.where(value < 0, 0.0, value)
    else:
        return value


@triton.jit(do_not_specialize=["rows", "row_tiles"])
def finish_loss(
    partial_sums_ptr,  # [rows, 1 + L] fp64
    rows,
    bandwidths_ptr,  # [3, L] fp64, of fastmmd.kernels.pack
    numbers,
    loss_ptr,  # [] fp32 or fp64
    statistics_ptr,  # [1 + 2 L], the loss's dtype
    trace_ptr,  # [row tiles] fp64, of fastmmd.kernels.form; or None
    row_tiles,
    CLAMP: tl.constexpr,
    STEP: tl.constexpr,
    LAYERS: tl.constexpr,
):
    bandwidths = ()
    for l in tl.static_range(count(LAYERS)):
        bandwidths = bandwidths + (tl.load(bandwidths_ptr + l),)
    trace = None
    if trace_ptr is not None:
        b_trace = tl.zeros((STEP,), tl.float64)
        for start in range(0, row_tiles, STEP):
            tile = start + tl.arange(0, STEP)
            b_trace += tl.load(trace_ptr + tile, mask=tile < row_tiles, other=0.0)
        trace = tl.sum(b_trace)
    store_loss_and_statistics(
        partial_sums_ptr, rows, bandwidths, numbers, loss_ptr, statistics_ptr, trace, CLAMP, STEP, LAYERS
    )


def loss_and_statistics(
    plan: Plan,
    partial_sums: Tensor,
    bandwidths: Tensor,
    *,
    trace: Tensor | None = None,
    clamp: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """`Result`'s first two from partial sums ``[rows, 1 + L]``, in one more launch. trace: parts of what the value at
    distance 0 counts, where there is a form."""
    device = partial_sums.device
    loss = torch.empty((), dtype=dtype, device=device)
    statistics = torch.empty(1 + 2 * len(plan.layers.mixtures), dtype=dtype, device=device)
    launch(
        finish_loss,
        (1,),
        partial_sums,
        partial_sums.shape[0],
        bandwidths,
        plan.numbers,
        loss,
        statistics,
        trace,
        None if trace is None else len(trace),
        CLAMP=clamp,
        STEP=128,
        LAYERS=plan.layers,
        num_warps=8,
    )
    return loss, statistics
