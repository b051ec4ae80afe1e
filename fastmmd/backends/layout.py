"""How tensors reach compiled kernels: rows with unit stride along the features, on torch's current device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fastmmd.call import Call


def row_major(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``[n, d]`` in `dtype` with unit stride along the features, copied only if it must be."""
    x = x if x.dtype == dtype else x.to(dtype)
    if x.is_neg():
        x = x.resolve_neg()
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def matched(call: Call) -> Call:
    """The call with row-major layers. Source and target of a layer keep their dtype if they share it, and get the
    computing dtype if they don't."""
    dtypes = [s.dtype if s.dtype == t.dtype else call.dtype for s, t in zip(call.sources, call.targets, strict=True)]
    return call._replace(
        sources=[row_major(x, dtype) for x, dtype in zip(call.sources, dtypes, strict=True)],
        targets=[row_major(x, dtype) for x, dtype in zip(call.targets, dtypes, strict=True)],
    )


def empty_gradients(inputs: Sequence[Tensor], needs_grad: Sequence[bool], dtype: torch.dtype) -> list[Tensor | None]:
    """Contiguous, whatever the inputs' layout; None where not needed."""
    return [_empty_like(x, dtype) if needed else None for x, needed in zip(inputs, needs_grad, strict=True)]


def _empty_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    # At training sizes every argument counts: the first way takes half as long as the second, and that half as long as
    # torch.empty with shape, dtype and device.
    if x.dtype == dtype and x.is_contiguous():
        return torch.empty_like(x)
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


def current_device(device: torch.device) -> AbstractContextManager[None]:
    """Makes `device` torch's current one, on which kernels are launched."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
