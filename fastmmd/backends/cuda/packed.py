"""What routes "fused" and "gemm" begin and end with: packed rows (csrc/cuda/pack.cuh); and from what was added up on
them the loss, the statistics and the gradients (csrc/cuda/finish.cuh)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastmmd import extension
from fastmmd.backends.cuda.buffers import DTYPE_NAMES, allocate
from fastmmd.backends.cuda.stream import current
from fastmmd.backends.layout import matched
from fastmmd.call import Call, Result


class Packed(NamedTuple):
    """
    rows: per layer ``[R, width]``, as `pack` fills them.
    norms: ``[L, R]``, squared, of the rounded rows.
    bandwidths: ``[2, L]`` fp64: bandwidths, and the round-off of distances that come from products.
    format: of the products' operands.
    problem, buffers, queue: the extension's forms of problem, result and stream.
    result: allocated, for `finish` to fill.
    """

    rows: Sequence[Tensor]
    norms: Tensor
    bandwidths: Tensor
    format: str
    problem: Any
    buffers: Any
    queue: Any
    result: Result


def padded_widths(dims: Sequence[int], *, ones: bool = False) -> list[int]:
    """Columns of packed rows per layer: features, one of ones, and zeros up to what one matrix instruction takes."""
    module: Any = extension.module
    return [-(-(d + ones) // module.CUDA_FEATURE_GROUP) * module.CUDA_FEATURE_GROUP for d in dims]


def padded_rows(call: Call) -> int:
    """R: each domain's rows, rounded up to whole panels."""
    assert extension.module is not None
    side = extension.module.CUDA_TILE_ROWS
    return sum([-(-n // side) * side for n in (call.problem.n_source, call.problem.n_target)])


def pack(
    call: Call,
    format: str,
    rows: Sequence[Tensor],
    *,
    transposed: Sequence[Tensor | None] | None = None,
    ones: bool = False,
) -> Packed:
    """Fills `rows`, per layer ``[R, width]`` in the operands' dtype: centred, rounded to `format`, source first, each
    domain padded with zeros to whole panels; past the features a column of ones, if asked for, then zeros. transposed:
    per layer ``[width, R]``, contiguous, likewise; None where nobody needs it."""
    module: Any = extension.module
    call = matched(call)
    dtype, device, layers = call.dtype, call.device, len(call.sources)
    float64 = dtype == torch.float64
    problem, queue = extension.make_problem(call.problem, call.dims), current(device)
    norms = torch.empty(layers, len(rows[0]), dtype=dtype, device=device)
    bandwidths = torch.empty(2, layers, dtype=torch.float64, device=device)
    allocated = allocate(call, module.cuda_pack_workspace_bytes(problem, float64))
    module.cuda_pack(
        problem,
        allocated.buffers,
        [DTYPE_NAMES[x.dtype] for x in call.sources],
        float64,
        format,
        module.CudaPackedRows(
            rows=[x.data_ptr() for x in rows],
            transposed=[extension.data_ptr(x) for x in transposed or [None] * layers],
            width=[x.shape[1] for x in rows],
            pitch=[x.stride(0) for x in rows],
            ones=ones,
            norm=norms.data_ptr(),
            bandwidth=bandwidths[0].data_ptr(),
            tolerance=bandwidths[1].data_ptr(),
        ),
        queue,
    )
    return Packed(rows, norms, bandwidths, format, problem, allocated.buffers, queue, allocated.result)


def finish(packed: Packed, sums: Tensor, weighted: Sequence[Tensor | None], *, ones: bool = False) -> Result:
    """sums: ``[sum rows, 3, 1 + L]``, over ss, tt, st. weighted: per layer ``[parts, R, width]``, where a gradient is
    needed: parts of it, or, where the rows have `ones`, of ``C [z, 1]``."""
    module: Any = extension.module
    present = [x for x in weighted if x is not None]
    module.cuda_finish(
        packed.problem,
        packed.buffers,
        packed.norms.dtype == torch.float64,
        packed.format,
        module.CudaPackedSums(
            sums=sums.data_ptr(),
            sum_rows=len(sums),
            bandwidth=packed.bandwidths.data_ptr(),
            weighted=[extension.data_ptr(x) for x in weighted],
            rows=[x.data_ptr() if ones else 0 for x in packed.rows],
            pitch=[x.stride(0) for x in packed.rows],
            parts=len(present[0]) if present else 1,
            part_pitch=present[0].stride(0) if present else 0,
        ),
        packed.queue,
    )
    return packed.result
