"""Weights of pairs (`fastmmd.call.Form`) as routes fused and gemm read them: W and W A with the rows of
kernels/pack.py, in one launch behind the product W A."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmmd.call import Call
from fastmmd.kernels.arithmetic import count, exact, term_weight
from fastmmd.kernels.launch import launch
from fastmmd.kernels.pack import ROWS, Packed
from fastmmd.kernels.plan import TRITON_DTYPE, Plan
from fastmmd.problem import Problem

COLUMNS = 16  # of W, that a program takes at a time


class PackedForm(NamedTuple):
    """
    w: ``[P, padded rows]``, fp32 or fp64: W, a column after the other, so that the numbers of a tile of rows lie side
        by side; padding is 0.
    wa: likewise ``W A``; None where K W alone is computed.
    terms: ``[1 + L]``, likewise: what the product of all layers' kernels and each layer's count in K.
    trace: fp64: parts of the sum of the weights of pairs (i, i), one per tile of rows; without `wa` there are none.
    """

    w: Tensor
    wa: Tensor | None
    terms: Tensor
    trace: Tensor


@triton.jit(do_not_specialize=["columns", "n_source", "n_target", "source_tiles"])
def pack_weights(
    w_ptr,  # [n_source + n_target, columns] DTYPE
    wa_ptr,  # likewise, or None
    numbers,
    packed_w_ptr,  # [columns, padded rows] DTYPE
    packed_wa_ptr,  # likewise, or None
    terms_ptr,  # [1 + L] DTYPE
    trace_ptr,  # [row tiles] fp64; written where there is W A
    columns,
    n_source,
    n_target,
    source_tiles,
    LAYERS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    tile = tl.program_id(0)
    is_source = tile < source_tiles
    domain_row = tl.where(is_source, tile, tile - source_tiles) * ROWS + tl.arange(0, ROWS)
    in_rows = domain_row < tl.where(is_source, n_source, n_target)
    first_element = (domain_row + tl.where(is_source, 0, n_source)).to(tl.int64)[:, None] * columns
    packed_row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    padded_rows = tl.num_programs(0) * ROWS
    b_trace = tl.zeros((ROWS, COLUMNS), tl.float64)
    for start in range(0, columns, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        mask = in_rows[:, None] & (column < columns)
        inside = (column < columns) & (packed_row >= 0)
        packed = column * padded_rows + packed_row
        b_w = tl.load(w_ptr + first_element + column, mask=mask, other=0.0)
        tl.store(packed_w_ptr + packed, b_w, mask=inside)
        if wa_ptr is not None:
            b_wa = tl.load(wa_ptr + first_element + column, mask=mask, other=0.0)
            tl.store(packed_wa_ptr + packed, b_wa, mask=inside)
            b_trace += b_w.to(tl.float64) * b_wa.to(tl.float64)
    if wa_ptr is not None:
        tl.store(trace_ptr + tile, tl.sum(b_trace))
    if tile == 0:
        for term in tl.static_range(1 + count(LAYERS)):
            tl.store(terms_ptr + term, exact(numbers, term_weight(term)).to(DTYPE))


def pack_form(call: Call, plan: Plan, packed: Packed) -> PackedForm | None:
    """None for a plain call."""
    if call.form is None:
        return None
    problem, device, dtype = call.problem, call.device, call.dtype
    with torch.no_grad():
        w = call.form.w.to(dtype).resolve_neg().contiguous()
        wa = None if call.form.a is None else call.form.times_a(w).contiguous()
    total, columns = len(packed.rows[0]), w.shape[1]
    form = PackedForm(
        w=torch.empty((columns, total), dtype=dtype, device=device),
        wa=None if wa is None else torch.empty((columns, total), dtype=dtype, device=device),
        terms=torch.empty(1 + len(call.sources), dtype=dtype, device=device),
        trace=torch.empty(0 if wa is None else total // ROWS, dtype=torch.float64, device=device),
    )
    launch(
        pack_weights,
        (total // ROWS,),
        w,
        wa,
        plan.numbers,
        form.w,
        form.wa,
        form.terms,
        form.trace,
        columns,
        problem.n_source,
        problem.n_target,
        packed.source_rows // ROWS,
        LAYERS=plan.layers,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        DTYPE=TRITON_DTYPE[dtype],
    )
    return form


def unpacked(rows: Tensor, problem: Problem, source_rows: int) -> Tensor:
    """``[N, P]`` from ``[padded rows, P]``."""
    sources, targets = rows[: problem.n_source], rows[source_rows : source_rows + problem.n_target]
    return torch.cat([sources, targets]) if problem.n_target else sources
