"""Which backend computes a call, and why the others can't."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastmmd.backends import Backend, cpu, cuda, reference, torch_tiles, triton
from fastmmd.backends.cuda.launch_rules import SMALL_ROWS
from fastmmd.backends.launch_rules import UNMEASURED
from fastmmd.call import Call

BACKENDS: dict[str, Backend] = {
    "cpu": cpu,
    "cuda": cuda,
    "triton": triton,
    "torch": torch_tiles,
    "reference": reference,
}
NAMES = ("auto", *BACKENDS)


@dataclass(frozen=True, kw_only=True)
class Preference:
    """device: type of device. max_rows: pooled rows (None: any)."""

    backend: str
    device: str
    reason: str
    max_rows: int | None = None


# What "auto" takes: the first that is for the device and supports the call; "torch" where none does.
AUTOMATIC = (
    Preference(
        backend="cpu",
        device="cpu",
        reason="fastest at every size of the benchmark (bench/results/cpu.md)",
    ),
    Preference(
        backend="cuda",
        device="cuda",
        max_rows=SMALL_ROWS,
        reason=f"two launches from C++, where Triton's launcher in Python takes most of the time; {UNMEASURED}",
    ),
    Preference(
        backend="triton",
        device="cuda",
        reason="by counting for sm_90: 45 instructions per pair in route fused, 256 + 8 features in bf16, by wgmma; "
        f"CUDA's, by mma.sync, takes 76 (docs/performance.md); {UNMEASURED}",
    ),
    Preference(
        backend="cuda",
        device="cuda",
        reason="where Triton, the C compiler or the compute capability (8.0) that it needs is missing; " + UNMEASURED,
    ),
)


def unavailable(name: str, device: torch.device) -> str | None:
    """Why backend `name` can't compute on `device`; None if it can."""
    return BACKENDS[name].unavailable(device)


def refusal(name: str, call: Call) -> str | None:
    """Why backend `name` can't compute a call where its tensors are; None if it can."""
    return unavailable(name, call.device) or BACKENDS[name].supports(call)


def check_name(name: object) -> None:
    """
    Raises:
        ValueError: no such backend.
    """
    if name not in NAMES:
        raise ValueError(f"backend: expected one of {NAMES}, got {name!r}")


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
        able = [other for other in BACKENDS if unavailable(other, device) is None]
        raise RuntimeError(f"backend {name!r} can't run here: {reason}. Backends that can: {able}")


def choose(name: str, call: Call) -> str:
    """The name of the backend that computes a call: the one that is named, else what `AUTOMATIC` says.

    Raises:
        ValueError: the named backend does not support the call; the message says why, and what does.
    """
    device = call.device
    if name == "auto":
        for preference in AUTOMATIC:
            if (
                preference.device == device.type
                and (preference.max_rows is None or call.problem.n <= preference.max_rows)
                and refusal(preference.backend, call) is None
            ):
                return preference.backend
        return "torch"
    reason = BACKENDS[name].supports(call)
    if reason is not None:
        able = [other for other in BACKENDS if refusal(other, call) is None]
        raise ValueError(f"backend {name!r} can't compute this: {reason}. Backends that can: {able}")
    return name
