"""Where kernels are queued: the device and torch's current stream on it."""

from __future__ import annotations

from typing import Any

import torch

from fastmmd import extension


def current(device: torch.device) -> Any:
    """The extension's ``CudaDevice``; on the host, for tests, there is no stream."""
    module: Any = extension.module
    if device.type == "cpu":
        return module.CudaDevice(index=0, stream=0)
    return module.CudaDevice(index=device.index, stream=_raw_stream(device.index))


def _public_raw_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


# Private, and much faster: the public one makes an object.
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", _public_raw_stream)
