"""Which backend computes a problem, and why the others can't."""

from __future__ import annotations

from types import ModuleType

import torch

from fastmmd.backends import cpu, panels, reference, triton

_MODULES: dict[str, ModuleType] = {"cpu": cpu, "triton": triton, "torch": panels, "reference": reference}
_ABSENT = {"cuda": "this version has no CUDA kernels; backend 'triton' computes on CUDA devices"}
# Fastest first; "torch" can always run.
_AUTOMATIC = {"cpu": ("cpu", "torch"), "cuda": ("triton", "torch")}
BACKENDS = ("auto", "cpu", "cuda", "triton", "torch", "reference")


def unavailable(name: str, device: torch.device) -> str | None:
    """Why backend `name` can't compute on `device`; None if it can."""
    return _ABSENT[name] if name in _ABSENT else _MODULES[name].unavailable(device)


def select(name: str, device: torch.device) -> str:
    """ "auto" takes the fastest backend that can run; a named one works or raises.

    Raises:
        ValueError: no such backend.
        RuntimeError: the named backend can't run here; the message says why, and what can.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {name!r}")
    if name == "auto":
        names = _AUTOMATIC.get(device.type, ("torch",))
        return next(name for name in names if unavailable(name, device) is None)
    reason = unavailable(name, device)
    if reason is not None:
        able = [other for other in BACKENDS[1:] if unavailable(other, device) is None]
        raise RuntimeError(f"backend {name!r} can't run here: {reason}. Backends that can: {able}")
    return name


def module(name: str) -> ModuleType:
    return _MODULES[name]
