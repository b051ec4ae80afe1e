"""Which backend computes a problem, and why the others can't."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch

from fastmmd.backends import cpu, cuda, panels, reference, triton
from fastmmd.problem import Problem

_MODULES: dict[str, ModuleType] = {
    "cpu": cpu,
    "cuda": cuda,
    "triton": triton,
    "torch": panels,
    "reference": reference,
}
BACKENDS = ("auto", *_MODULES)


class Line(NamedTuple):
    """
    rows: most pooled rows.
    gaussians: at most, in the mixtures of all layers together.
    """

    device: str
    rows: int
    gaussians: int
    backend: str
    reason: str


ANY = 1 << 62
UNMEASURED = "not yet measured on a GPU"

# What "auto" takes: the first line that fits and whose backend can run; "torch" where none does.
AUTOMATIC = (
    Line("cpu", ANY, ANY, "cpu", "fastest at every size of the benchmark (bench/results/cpu.md)"),
    Line(
        *("cuda", cuda.SMALL_ROWS, cuda.MAX_GAUSSIANS, "cuda"),
        f"two launches from C++, where Triton's launcher in Python takes most of the time; {UNMEASURED}",
    ),
    Line(
        *("cuda", ANY, ANY, "triton"),
        f"wgmma on sm_90, where the CUDA tiles use mma.sync, half its rate there; {UNMEASURED}",
    ),
    Line(
        "cuda",
        ANY,
        cuda.MAX_GAUSSIANS,
        "cuda",
        f"where Triton, the C compiler or the compute capability (8.0) that it needs is missing; {UNMEASURED}",
    ),
)


def unavailable(name: str, device: torch.device) -> str | None:
    """Why backend `name` can't compute on `device`; None if it can."""
    return _MODULES[name].unavailable(device)


def check_name(name: object) -> None:
    """
    Raises:
        ValueError: no such backend.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {name!r}")


def check(name: str, device: torch.device) -> None:
    """
    Raises:
        ValueError: no such backend.
        RuntimeError: the named backend can't run here; the message says why, and what can.
    """
    check_name(name)
    if name == "auto":
        return
    reason = unavailable(name, device)
    if reason is not None:
        able = [other for other in _MODULES if unavailable(other, device) is None]
        raise RuntimeError(f"backend {name!r} can't run here: {reason}. Backends that can: {able}")


def choose(name: str, device: torch.device, problem: Problem) -> str:
    """The name of the backend: the one that is named, else what `AUTOMATIC` says."""
    if name != "auto":
        return name
    gaussians = sum(len(layer.scales) for layer in problem.layers)
    for line in AUTOMATIC:
        fits = line.device == device.type and problem.n <= line.rows and gaussians <= line.gaussians
        if fits and unavailable(line.backend, device) is None:
            return line.backend
    return "torch"


def module(name: str) -> ModuleType:
    return _MODULES[name]
