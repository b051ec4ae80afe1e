"""Whether something besides plain eager autograd watches the computation: a compiler, torch.func, a tensor mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Private functions with no public counterpart; without them those transforms meet the plain Function and say so.
functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_functorch = getattr(torch._C, "_functorch", None)
_batched = [getattr(_functorch, name, None) for name in ("is_batchedtensor", "is_legacy_batchedtensor")]
_PLAIN = (Tensor, torch.nn.Parameter)
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


def active(*tensors: Tensor | None) -> bool:
    """Whether something watches that can't look into a Python autograd Function, or there are only shapes (meta)."""
    return (
        torch.compiler.is_compiling()
        or functorch_active()
        or _dispatch_modes() > 0
        or any(x is not None and (type(x) not in _PLAIN or x.is_meta) for x in tensors)
    )


def is_batched(tensor: Tensor) -> bool:
    """Whether vmap, or the older one behind ``is_grads_batched``, stands in for many tensors."""
    return not torch.compiler.is_compiling() and any(test is not None and test(tensor) for test in _batched)


def readable(tensor: Tensor) -> bool:
    """Whether a tensor's value can be read now: on the host, and no compiler or transform stands in for it."""
    return tensor.device.type == "cpu" and not active(tensor)


def any_tangent(tensors: Sequence[Tensor | None]) -> bool:
    """Whether some tensor is a dual number of forward-mode differentiation."""
    # Private: whether there can be any, at a fraction of the cost of asking every tensor.
    if getattr(forward_ad, "_current_level", 0) < 0:
        return False
    return any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def saved_tensor_handles(ctx: Any) -> Sequence[Any] | None:
    """What an autograd Function saved, to be opened one by one with ``unpack()``; None where that can't be done."""
    # Compiled autograd has none.
    handles = () if torch.compiler.is_compiling() else getattr(ctx, "_raw_saved_tensors", ())
    return handles if handles and hasattr(handles[0], "unpack") else None
