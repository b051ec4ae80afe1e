"""What the device at hand can do, and whether kernels were compiled for it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch

from fastmmd import extension
from fastmmd.backends.layout import current_device

# What the fused route needs, cp.async and tensor cores for TF32 and bf16, and the library for formats other than fp32.
TENSOR_CORES = (8, 0)
# Where kernels run on the host, for tests, they run as on sm_90.
HOST_CAPABILITY, HOST_SHARED_MEMORY = (9, 0), 227 << 10


def unavailable(device: torch.device) -> str | None:
    """`fastmmd.backends.Backend.unavailable`."""
    module = extension.module
    if module is None:
        return extension.reason
    if not module.CUDA:
        return f"fastmmd was installed without CUDA kernels: {module.CUDA_ABSENT}"
    if device.type != ("cpu" if module.CUDA_ON_HOST else "cuda"):
        return f"it computes on CUDA devices, the tensors are on {device.type}"
    return None if device.type == "cpu" else not_compiled_for(device.index or 0)


@cache
def capability(device: torch.device) -> tuple[int, int]:
    return HOST_CAPABILITY if device.type == "cpu" else torch.cuda.get_device_capability(device)


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a thread block of the fused route can have on request, its static ones included; 0 where the route
    can't run."""
    if capability(device) < TENSOR_CORES:
        return 0
    if device.type == "cpu":
        return HOST_SHARED_MEMORY
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", 99 << 10)


@cache
def overlaps_launches(device: torch.device) -> bool:
    """Whether a launch can begin while the one before it ends: on devices of compute capability 9.0 or above, if the
    code that they run was compiled for that."""
    present = capability(device)
    return device.type == "cpu" or any(
        int(re.match(r"\d+", arch)[0]) >= 90 and _runs(arch, present)  # type: ignore[index]
        for arch in extension.module.CUDA_ARCHS.split()  # type: ignore[union-attr]
    )


@cache
def not_compiled_for(index: int) -> str | None:
    """Why the extension's kernels don't run on CUDA device `index`; None if they do."""
    if torch.version.hip is not None:
        return "it computes on NVIDIA GPUs"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    module: Any = extension.module
    reason = missing_architecture(torch.cuda.get_device_capability(index), module.CUDA_ARCHS)
    if reason is None:
        with current_device(torch.device("cuda", index)):
            reason = module.cuda_probe(index) or None  # such as a driver older than CUDA's runtime
    return reason


def missing_architecture(capability: tuple[int, int], built: str) -> str | None:
    """Why kernels built for e.g. "80 90 120 120+PTX" do not run on a device; None if they do."""
    if any(_runs(arch, capability) for arch in built.split()):
        return None
    return f"it was built for compute capabilities {built}, the device has {capability[0]}.{capability[1]}"


def _runs(arch: str, capability: tuple[int, int]) -> bool:
    """Machine code runs on the same major version from its minor version on, PTX on everything newer, and code with a
    suffix, such as 90a, on that chip alone."""
    number, _, ptx = arch.partition("+")
    if not number.isdigit():
        return number[:-1] == "{}{}".format(*capability)
    major, minor = int(number[:-1]), int(number[-1])
    if ptx:
        return (major, minor) <= capability
    return major == capability[0] and minor <= capability[1]
