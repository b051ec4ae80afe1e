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
    precision = _LEGACY[torch.get_float32_matmul_precision()] if setting is None else setting.fp32_precision
    return precision if precision in ("tf32", "bf16") else "ieee"


@contextmanager
def matmul_precision(device: torch.device, precision: str) -> Iterator[None]:
    """Products on `device` use TF32 if `precision` is "tf32" or "bf16", and full fp32 otherwise."""
    needed = "tf32" if precision in ("tf32", "bf16") else "ieee"
    with _lock:
        if torch_precision(device) == needed:
            yield
            return
        setting = _setting(device)
        if setting is None:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision({"ieee": "highest", "tf32": "high"}[needed])
        else:
            before = _unfollowed_value(device, setting)
            setting.fp32_precision = needed
        try:
            yield
        finally:
            if setting is None:
                torch.set_float32_matmul_precision(before)
            else:
                setting.fp32_precision = before


def _setting(device: torch.device) -> Any:
    """The setting of the products of one backend, in newer torch versions; None where there is only the old, common
    one."""
    setting = getattr(_backend(device), "matmul", None)
    return setting if hasattr(setting, "fp32_precision") else None


def _backend(device: torch.device) -> Any:
    return torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn


def _unfollowed_value(device: torch.device, setting: Any) -> str:
    """The setting's own value: "none" where it follows a wider one. Reading it gives the value that it follows, so the
    wider ones are moved, and put back, to see whether it goes along."""
    backend = torch.backends.cudnn if device.type == "cuda" else torch.backends.mkldnn
    value = setting.fp32_precision
    if value == "none" or _follows(setting, torch.backends):
        return "none"
    if _follows(backend, torch.backends):
        return value
    return "none" if _follows(setting, backend) else value


def _follows(setting: Any, wider: Any) -> bool:
    value, before = setting.fp32_precision, wider.fp32_precision
    wider.fp32_precision = "ieee" if before == "tf32" else "tf32"
    try:
        return setting.fp32_precision != value
    finally:
        wider.fp32_precision = before
