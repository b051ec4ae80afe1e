"""Which dtype holds what: features as they are computed, and sums."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(*layers: Tensor) -> torch.dtype:
    """fp64 stays fp64; everything narrower is computed in fp32."""
    return torch.float64 if torch.float64 in [layer.dtype for layer in layers] else torch.float32


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """The dtype of sums and bandwidths: fp64, and fp32 on devices that have no fp64."""
    return torch.float64 if _has_float64(device) else torch.float32


def _has_float64(device: torch.device) -> bool:
    return device.type != "mps"
