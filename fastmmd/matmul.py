"""torch's process-wide setting for fp32 matrix products: read it, and hold it for the time of a computation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch

# The setting is global and products release the GIL: without the lock one thread's "tf32" would reach another's "ieee".
_lock = RLock()
_LEGACY = {"highest": "ieee", "high": "tf32", "medium": "bf16"}


def torch_precision(device: torch.device) -> str:
    """What torch allows fp32 products on `device` to use: "ieee", "tf32" or "bf16"."""
    setting = _setting(device)
    found = _LEGACY[torch.get_float32_matmul_precision()] if setting is None else setting.fp32_precision
    return found if found in ("tf32", "bf16") else "ieee"


@contextmanager
def matmul_precision(device: torch.device, precision: str) -> Iterator[None]:
    """Products on `device` use TF32 if `precision` is "tf32" or "bf16", and full fp32 otherwise."""
    wanted = "tf32" if precision in ("tf32", "bf16") else "ieee"
    with _lock:
        before = torch_precision(device)
        if before == wanted:
            yield
            return
        _set(device, wanted)
        try:
            yield
        finally:
            _set(device, before)


def _setting(device: torch.device) -> Any:
    """The per-backend setting of newer torch versions; None where there is only the old, common one."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    setting = getattr(backend, "matmul", None)
    return setting if hasattr(setting, "fp32_precision") else None


def _set(device: torch.device, precision: str) -> None:
    setting = _setting(device)
    if setting is None:
        torch.set_float32_matmul_precision({"ieee": "highest", "tf32": "high", "bf16": "medium"}[precision])
    else:
        setting.fp32_precision = precision
