"""Whether something besides plain eager autograd watches the computation: a compiler, torch.func, a tensor mode."""

from __future__ import annotations

import torch
from torch import Tensor

# Private functions with no public counterpart; without them those transforms meet the plain Function and say so.
functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_functorch = getattr(torch._C, "_functorch", None)
_batched = [getattr(_functorch, name, None) for name in ("is_batchedtensor", "is_legacy_batchedtensor")]
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


def active(*tensors: Tensor) -> bool:
    """Whether something watches that can't look into a Python autograd Function, or there are only shapes (meta)."""
    return (
        torch.compiler.is_compiling()
        or functorch_active()
        or _dispatch_modes() > 0
        or any(type(x) not in (Tensor, torch.nn.Parameter) or x.is_meta for x in tensors)
    )


def is_batched(tensor: Tensor) -> bool:
    """Whether vmap, or the older one behind ``is_grads_batched``, stands in for many tensors."""
    return not torch.compiler.is_compiling() and any(asks is not None and asks(tensor) for asks in _batched)


def readable(tensor: Tensor) -> bool:
    """Whether a tensor's value can be read now: on the host, and no compiler or transform stands in for it."""
    return tensor.device.type == "cpu" and not active(tensor)
