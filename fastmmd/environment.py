"""What was built, and what runs here."""

from __future__ import annotations

import platform
from typing import Any

import torch

import fastmmd
from fastmmd import compiled, dispatch
from fastmmd.backends import triton


def build_info() -> dict[str, Any]:
    """A description of this installation.

    Keys: ``version``; ``python``, ``torch``, ``triton`` (versions; None: not installed);
    ``compiled`` (None, or the extension's ``compiler``, ``abi``,
    ``openmp`` (False: it computes on one thread) and the instruction-set variants of the CPU kernels that this machine
    can run, best first; ``cuda``, the compute capabilities that its CUDA kernels were compiled for, or None);
    ``compiled_error`` (why there is no extension, else None); ``threads`` (torch's);
    ``devices``; ``backends``: for each name None if it runs on some device here, else the reason why not.
    """
    extension = compiled.module
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    backends: dict[str, str | None] = {}
    for name in dispatch.BACKENDS[1:]:
        reasons = [dispatch.unavailable(name, device) for device in devices]
        backends[name] = None if None in reasons else reasons[0]
    return {
        "version": fastmmd.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.version(),
        "compiled": None
        if extension is None
        else {
            "compiler": extension.COMPILER,
            "abi": extension.ABI,
            "openmp": extension.OPENMP,
            "cpu_variants": extension.cpu_variants(),
            "cuda": f"{extension.CUDA_ARCHS} by nvcc {extension.CUDA_VERSION}" if extension.CUDA else None,
        },
        "compiled_error": compiled.reason,
        "threads": torch.get_num_threads(),
        "devices": [str(device) for device in devices],
        "backends": backends,
    }
