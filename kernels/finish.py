"""What every route ends with: gradients to be filled, and the loss and the report from partial sums."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmmd.kernels.arithmetic import at_zero, count, exact
from fastmmd.kernels.launch import launch
from fastmmd.kernels.plan import Plan


@triton.constexpr_function
def _width(LAYERS):
    """Of a row of partial sums."""
    return 3 * (1 + len(LAYERS.mixtures))


@triton.constexpr_function
def _padded_width(LAYERS):
    return 1 << (3 * (1 + len(LAYERS.mixtures)) - 1).bit_length()


@triton.jit
def finish(
    partials, rows, bandwidths, numbers, loss, report, CLAMP: tl.constexpr, STEP: tl.constexpr, LAYERS: tl.constexpr
):
    """Adds up `partials` ([rows, 3, 1 + L] fp64: sums over ss, tt, st of the product and of each layer's kernel), STEP
    rows at a time and in fixed order; writes the loss and the report (fastmmd.backends)."""
    layers: tl.constexpr = count(LAYERS)
    width: tl.constexpr = _width(LAYERS)
    padded: tl.constexpr = _padded_width(LAYERS)
    column = tl.arange(0, padded)
    sums = tl.zeros((STEP, padded), tl.float64)
    for start in range(0, rows, STEP):
        row = start + tl.arange(0, STEP)
        mask = (row < rows)[:, None] & (column < width)[None, :]
        sums += tl.load(partials + row[:, None] * width + column[None, :], mask=mask, other=0.0)
    totals = tl.sum(sums, axis=0)
    total = tl.zeros((), tl.float64)
    for term in tl.static_range(1 + layers):
        value = exact(numbers, 3) * _at_zero(term, LAYERS)
        for region in tl.static_range(3):
            value += exact(numbers, region) * tl.sum(tl.where(column == region * (1 + layers) + term, totals, 0.0))
        total += exact(numbers, 4 + term) * value  # joint, then the marginals
        tl.store(report + term, _cut(value, CLAMP).to(report.dtype.element_ty))
    tl.store(loss, _cut(total, CLAMP).to(loss.dtype.element_ty))
    for l in tl.static_range(layers):
        tl.store(report + 1 + layers + l, bandwidths[l].to(report.dtype.element_ty))


@triton.jit
def _at_zero(term: tl.constexpr, LAYERS: tl.constexpr):
    """The value at distance 0 of the product (term 0) or of layer term - 1."""
    value = tl.full((), 1.0, tl.float64)
    for l in tl.static_range(count(LAYERS)):
        if term == 0 or term == l + 1:
            value *= at_zero(LAYERS, l)
    return value


@triton.jit
def _cut(value, CLAMP: tl.constexpr):
    """A V-statistic is never negative; NaN stays NaN."""
    if CLAMP:
        return tl.where(value < 0, 0.0, value)
    else:
        return value


@triton.jit(do_not_specialize=["rows"])
def finish_partials(
    partials, rows, bandwidths, numbers, loss, report, CLAMP: tl.constexpr, STEP: tl.constexpr, LAYERS: tl.constexpr
):
    used = ()
    for l in tl.static_range(count(LAYERS)):
        used = used + (tl.load(bandwidths + l),)
    finish(partials, rows, used, numbers, loss, report, CLAMP, STEP, LAYERS)


def empty_gradients(
    sources: Sequence[Tensor], targets: Sequence[Tensor], needs_grad: Sequence[bool], dtype: torch.dtype
) -> list[Tensor | None]:
    """Contiguous, whatever the inputs' layout; None where not needed."""
    return [
        torch.empty(x.shape, dtype=dtype, device=x.device) if need else None
        for x, need in zip((*sources, *targets), needs_grad, strict=True)
    ]


def finished(
    plan: Plan, partials: Tensor, bandwidths: Tensor, clamp: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The loss and the report from partial sums [rows, 3, 1 + L], in one more launch."""
    device = partials.device
    loss = torch.empty((), dtype=dtype, device=device)
    report = torch.empty(1 + 2 * len(plan.layers.mixtures), dtype=dtype, device=device)
    launch(
        finish_partials,
        (1,),
        *(partials, partials.shape[0], bandwidths, plan.numbers, loss, report),
        CLAMP=clamp,
        STEP=128,
        LAYERS=plan.layers,
        num_warps=8,
    )
    return loss, report
