"""Whether a transform of torch watches the computation: compile, export, functorch, or a tensor mode."""

from __future__ import annotations

import torch
from torch import Tensor

# Two private functions with no public counterpart; without them those transforms meet the plain Function and say so.
_functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


def active(*tensors: Tensor) -> bool:
    """Whether something watches that can't look into a Python autograd Function or a call of the extension."""
    return (
        torch.compiler.is_compiling()
        or _functorch_active()
        or _dispatch_modes() > 0
        or any(type(x) not in (Tensor, torch.nn.Parameter) for x in tensors)
    )
