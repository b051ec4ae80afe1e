"""Compiles recorded launches for GPUs that are not here, and reads from the binaries what each kernel uses.

    python -m tests.kernels.aot          # writes resources/triton-VERSION.json, which test_resources.py compares with

Neither a GPU nor a driver is needed: Triton brings the assembler and the disassembler.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # what Triton < 3.10 does; unset, 3.9 warns

import triton
from triton.backends.compiler import GPUTarget

from fastmmd.kernels.launch import Launch
from tests import machine_code
from tests.kernels.variants import unique_launches

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
REPORT = Path(__file__).parent / "resources" / f"triton-{triton.__version__}.json"
_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class _AbsentDevice:
    """Stands for a driver: says what the target is, so that the launcher specialises arguments as it would there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self.name]

    def get_current_device(self) -> str:
        return self.name  # keys the launcher's caches

    def get_current_stream(self, device: str) -> int:
        return 0


def compile(launch: Launch, target: str) -> Any:
    """Triton's compiled kernel of a recorded launch for a key of `TARGETS`."""
    config = triton.runtime.driver
    before = config._active
    config.set_active(_AbsentDevice(target))
    try:
        return launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options)
    finally:
        config._active = before


def resources(compiled: Any) -> dict[str, Any]:
    """registers (per thread), spills (instructions that move registers to or from local memory), shared (bytes per
    thread block), matrix (the matrix instruction that occurs most often; None: plain arithmetic)."""
    if "amdgcn" in compiled.asm:
        text = compiled.asm["amdgcn"]
        registers = int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1])
        spills = len(re.findall(r"\bscratch_(?:load|store)\w*", text))
        instructions = re.findall(r"v_mfma_\w+", text)
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            usage, sass = _tool("cuobjdump", "-res-usage", file.name), _tool("nvdisasm", "-c", file.name)
        registers = int(re.search(r"REG:(\d+)", usage)[1])
        spills = len(re.findall(r"\b(?:LDL|STL)\b", sass))
        instructions = re.findall(r"\b((?:H|D|HG|UTC\w?)MMA[.\w]*)", sass)
    matrix = max(sorted(set(instructions)), key=instructions.count) if instructions else None
    return {"registers": registers, "spills": spills, "shared": int(compiled.metadata.shared), "matrix": matrix}


def report(target: str) -> dict[str, dict[str, Any]]:
    """`resources` of every kernel of tests.kernels.variants, by name."""
    vendor = "amd" if TARGETS[target].backend == "hip" else "nvidia"
    return {name: resources(compile(launch, target)) for name, launch in unique_launches(vendor)}


def _tool(name: str, *args: str) -> str:
    return subprocess.run([str(_TOOLS / name), *args], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    if len(sys.argv) > 1:  # one target, for a process of its own
        json.dump(report(sys.argv[1]), sys.stdout)
    else:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(json.dumps({target: report(target) for target in TARGETS}, indent=1) + "\n")
