"""The memory of a call, as every route hands it to the extension."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastmmd import extension
from fastmmd.backends.layout import empty_gradients, row_major
from fastmmd.call import Call, Result

DTYPE_NAMES = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32", torch.float64: "f64"}


class Allocated(NamedTuple):
    """
    result: allocated, for kernels to fill.
    buffers: the extension's structure, which holds addresses alone.
    kept: what lies there besides inputs and result; to be kept until the kernels are queued.
    """

    result: Result
    buffers: Any
    kept: tuple[Tensor | None, ...]


def allocate(call: Call, workspace_bytes: int) -> Allocated:
    """For a call with row-major layers."""
    dtype, device, form = call.dtype, call.device, call.form
    w = wa = kw = None
    if form is not None:
        w = row_major(form.w, dtype).contiguous()
        wa = None if form.a is None else form.times_a(w)
        kw = torch.empty_like(w) if form.needs_rows else None
    result = Result(
        loss=torch.empty((), dtype=dtype, device=device),
        statistics=torch.empty(1 + 2 * len(call.sources), dtype=dtype, device=device),
        gradients=empty_gradients(call.inputs, call.needs_grad, dtype),
        rows=kw,
    )
    workspace = torch.empty(workspace_bytes, dtype=torch.uint8, device=device)
    buffers = extension.make_buffers(
        inputs=call.inputs,
        gradients=result.gradients,
        bandwidths=call.bandwidths,
        loss=result.loss,
        statistics=result.statistics,
        workspace=workspace,
        w=w,
        wa=wa,
        kw=kw,
    )
    return Allocated(result, buffers, kept=(workspace, w, wa))
