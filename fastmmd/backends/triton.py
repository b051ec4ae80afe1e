"""Backend "triton": the fused kernels of fastmmd.kernels on GPUs, or anywhere in Triton's interpreter."""

from __future__ import annotations

import os
import shutil
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from fastmmd import extension
from fastmmd.backends.layout import current_device, matched
from fastmmd.call import Call, Result
from fastmmd.precision import torch_precision

if TYPE_CHECKING:
    from fastmmd.kernels.launch_rules import Config

OLDEST = (3, 5)  # Triton; kernels use its compile-time functions
CAPABILITY = (8, 0)


def unavailable(device: torch.device) -> str | None:
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"it computes on CUDA and ROCm devices, the tensors are on {device.type}"
    reason = _missing()
    if reason is None and device.type == "cuda":
        reason = _too_old(device.index)
    return reason


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter: slow, on CPU tensors, for tests."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@cache
def version() -> str | None:
    """Triton's version; None if it is not installed."""
    try:
        return import_module("triton").__version__
    except ImportError:
        return None


@cache
def _missing() -> str | None:
    installed = version()
    if installed is None:
        return "Triton is not installed (PyTorch for CUDA or ROCm on Linux brings it)"
    if find_spec("fastmmd.kernels") is None:
        return f"fastmmd.kernels is missing: {extension.REINSTALL}"
    if not interpreted() and not any(map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang", "cc"))):
        return "Triton needs a C compiler (gcc, clang or what CC names) to launch its kernels, and found none"
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST:
        return f"it needs Triton >= {'.'.join(map(str, OLDEST))}, found {installed}"
    return None


@cache
def _too_old(index: int | None) -> str | None:
    if torch.version.hip is None and (capability := torch.cuda.get_device_capability(index)) < CAPABILITY:
        needed, present = (".".join(map(str, pair)) for pair in (CAPABILITY, capability))
        return f"it needs compute capability {needed} or above, found {present}"
    return None


@cache
def capability(device: torch.device) -> int | None:
    """The first digit of a device's compute capability; None for AMD. In the interpreter kernels run as on sm_90."""
    if torch.version.hip is not None:
        return None
    return 9 if device.type == "cpu" else torch.cuda.get_device_capability(device)[0]


def supports(call: Call) -> str | None:
    return None


def run(call: Call, config: Config | None = None) -> Result:
    # Triton is imported when it is first needed: `import fastmmd` must not wait for it.
    from fastmmd.kernels import launch_rules

    vendor = launch_rules.vendor()
    precision = torch_precision(call.device) if call.precision is None else call.precision
    format = launch_rules.product_format(vendor, precision, call.dtype)
    if config is None:
        config = launch_rules.choose_for(call, vendor, capability(call.device), format).config
    with current_device(call.device):
        return launch_rules.ROUTES[type(config)](matched(call), format, config)
