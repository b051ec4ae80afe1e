"""What was built, and what runs here."""

from __future__ import annotations

import platform
from typing import Any

import torch

from fastmmd import dispatch, extension
from fastmmd._version import __version__
from fastmmd.backends import triton


def build_info() -> dict[str, Any]:
    """A description of this installation.

    Returns:
        A dictionary with the keys

        * ``version``; ``python``, ``torch``, ``triton``: versions (None: not installed);
        * ``compiled``: None, or what the extension was built with: its ``compiler``, its ``abi``, ``openmp`` (False: it
          computes on one thread), ``cpu_variants`` (the instruction sets of its CPU kernels that this machine can run,
          best first) and ``cuda`` (the compute capabilities of its CUDA kernels, or None);
        * ``compiled_error``: why there is no extension, else None;
        * ``threads``: torch's number of threads;
        * ``devices``: names of the devices here;
        * ``backends``: per backend None if it runs on some device here, else the reason why not.

    Example:
        >>> import fastmmd
        >>> fastmmd.build_info()["backends"]["torch"] is None
        True
    """
    module = extension.module
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    backends: dict[str, str | None] = {}
    for name in dispatch.BACKENDS:
        reasons = [dispatch.unavailable(name, device) for device in devices]
        backends[name] = None if None in reasons else reasons[0]
    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.version(),
        "compiled": None
        if module is None
        else {
            "compiler": module.COMPILER,
            "abi": module.ABI,
            "openmp": module.OPENMP,
            "cpu_variants": module.cpu_variants(),
            "cuda": f"{module.CUDA_ARCHS} by nvcc {module.CUDA_VERSION}" if module.CUDA else None,
        },
        "compiled_error": extension.reason,
        "threads": torch.get_num_threads(),
        "devices": [str(device) for device in devices],
        "backends": backends,
    }
