"""Routes of the GPU backends: what a config belongs to, and one or two configs of each that show their edges.

Triton is imported only where it is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from fastmmd.backends import cuda, triton

if TYPE_CHECKING:
    from fastmmd.backends.launch_rules import Rule
    from fastmmd.kernels.launch_rules import Config as TritonConfig

    Config: TypeAlias = cuda.launch_rules.Config | TritonConfig
    AnyRule: TypeAlias = Rule[Config]  # of either backend

BACKENDS = ("cuda", "triton")
ROUTES = ("small", "fused", "gemm")

# Workspaces of 64 x 64 pairs of two layers; parts, chunks and tiles that are ragged and several at a hundred rows.
CUDA_CONFIGS: dict[str, Config] = {
    "cuda-small": cuda.small.Config(part_features=64, chunk=32),
    "cuda-small64": cuda.small.Config(part_features=100, chunk=64),
    "cuda-fused": cuda.fused.Config(thread_blocks=1, stages=1),
    "cuda-fused2": cuda.fused.Config(thread_blocks=9, stages=2),
    "cuda-gemm": cuda.gemm.Config(workspace_bytes=4 * 2 * 64 * 64),
}


def configs() -> dict[str, Config]:
    """Configs by name, which begins with the backend; Triton's only where it is installed."""
    if triton.version() is None:
        return CUDA_CONFIGS
    from fastmmd.kernels import fused, gemm, small

    return CUDA_CONFIGS | {
        "triton-small": small.Config(
            tile=32, features=32, chunk=64, part_features=64, max_parts=3, warps=8, stages=2, overlap=False
        ),
        "triton-fused": fused.Config(tile=64, columns=32, warps=4, stages=2),
        "triton-fused128": fused.Config(tile=128, columns=32, warps=8, stages=2),
        "triton-gemm": gemm.Config(rows=32, columns=64, warps=4, workspace_bytes=4 * 2 * 64 * 64),
    }


def names(backends: Sequence[str]) -> list[str]:
    """For each backend its configs' names, and then its own, which stands for what its launch rules choose."""
    return [
        name
        for backend in backends
        for name in (*(name for name in configs() if backend_of_name(name) == backend), backend)
    ]


def backend_of_name(name: str) -> str:
    return name.split("-")[0]


def backend_of(config: Config) -> str:
    return "cuda" if type(config).__module__.startswith("fastmmd.backends.cuda.") else "triton"


def route_of(config: Config) -> str:
    """One of `ROUTES`: the module that a config is from."""
    return type(config).__module__.rpartition(".")[2]


def source_of(config: Config) -> str:
    """A config as its backend's launch rules write it, such as ``gemm.Config(workspace_bytes=4096)``."""
    return f"{route_of(config)}.{config!r}"
