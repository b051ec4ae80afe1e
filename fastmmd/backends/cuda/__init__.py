"""Backend "cuda": the compiled kernels of csrc/cuda on NVIDIA GPUs. launch_rules.py says which route a problem takes:

small: everything in two launches (csrc/cuda/small.cu).
fused: one launch on packed rows, Gram tiles stay on the chip (csrc/cuda/fused.cu).
gemm: torch's matrix products, and one fused pass between them (csrc/cuda/gemm_pass.cu).
"""

from __future__ import annotations

import torch

from fastmmd import extension
from fastmmd.backends.cuda import architecture, fused, gemm, launch_rules, small
from fastmmd.backends.cuda.architecture import unavailable
from fastmmd.backends.layout import current_device
from fastmmd.call import Call, Result
from fastmmd.precision import torch_precision

__all__ = ["by_differences", "run", "supports", "unavailable"]


def supports(call: Call) -> str | None:
    assert extension.module is not None
    most = extension.module.CUDA_MAX_GAUSSIANS
    if call.problem.gaussians > most:
        return f"kernels: it takes at most {most} Gaussians in all layers together, got {call.problem.gaussians}"
    if call.problem.n > extension.module.CUDA_MAX_ROWS:
        return f"sources, targets: it takes at most {extension.module.CUDA_MAX_ROWS} rows, got {call.problem.n}"
    if call.form is not None and call.problem.n > launch_rules.SMALL_ROWS:
        return f"weights of pairs: it takes them with at most {launch_rules.SMALL_ROWS} rows, got {call.problem.n}"
    return None


def run(call: Call, config: launch_rules.Config | None = None) -> Result:
    device = call.device
    format = launch_rules.product_format(_precision(call), call)
    config = config or _chosen(call, format)
    with current_device(device):
        if isinstance(config, small.Config):
            return small.run(call, config)
        if call.form is not None:
            raise ValueError(f"config: a call with weights of pairs takes small.Config, got {config}")
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            if isinstance(config, fused.Config):
                return fused.run(call, format, config)
            return gemm.run(call, format, config)


def by_differences(call: Call) -> bool:
    """Whether the route that takes a call adds up squared differences, so that no common centre matters."""
    return isinstance(_chosen(call, "ieee"), small.Config)


def _chosen(call: Call, format: str) -> launch_rules.Config:
    """The config that the launch rules have for a call that is supported."""
    if call.form is not None:
        return launch_rules.choose_for_form(call.dims).config
    return launch_rules.choose(call.problem.n, call.dims, format, architecture.shared_memory(call.device)).config


def _precision(call: Call) -> str:
    if architecture.capability(call.device) < architecture.TENSOR_CORES:
        return "ieee"  # less would lose digits and save no time
    return torch_precision(call.device) if call.precision is None else call.precision
