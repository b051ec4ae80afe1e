"""Compiles recorded launches for GPUs that are not here, and reads from the binaries what each kernel uses.

    python -m tests.kernels.aot          # prints instructions per pair, and writes resources/triton-VERSION.json, with
                                         # which test_resources.py compares

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
    "sm_120": GPUTarget("cuda", 120, 32),
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


def resources(launch: Launch, compiled: Any) -> dict[str, Any]:
    """What a compiled launch uses:

    registers: per thread.
    spills: instructions that move registers to or from local memory.
    shared: bytes per thread block.
    matrix: shapes of the matrix instructions; none for plain arithmetic.

    and, of kernels that turn pairs of rows into coefficients,

    per_pair: instructions per pair of the loop over pairs, or of the kernel if it has none, as tests/machine_code.py
        counts them.
    loop_spills: spills among these.
    repeats: how often a pair is computed; 0 where exponentials are no instructions (fp64).
    """
    if "amdgcn" in compiled.asm:
        text = compiled.asm["amdgcn"]
        registers = int(re.search(r"\.vgpr_count:\s+(\d+)", text)[1])
        shapes = re.findall(r"\bv_mfma_\w+", text)
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            usage, text = _tool("cuobjdump", "-res-usage", file.name), _tool("nvdisasm", "-c", file.name)
        registers = int(re.search(r"REG:(\d+)", usage)[1])
        shapes = re.findall(r"\b((?:H|D|HG|UTC\w?)MMA[.\w]*)", text)
    (code,) = machine_code.kernels(text).values()
    used = {
        "registers": registers,
        "spills": len(re.findall(rf"\b(?:{'|'.join(machine_code.SPILLS)})", code)),
        "shared": int(compiled.metadata.shared),
        "matrix": sorted(set(shapes)),
    }
    if (pairs := pairs_per_tile(launch)) is not None:
        per_thread = pairs / (compiled.metadata.num_warps * compiled.metadata.target.warp_size)
        loop = machine_code.pair_loop(code)
        used |= {
            "per_pair": round(loop.instructions / per_thread, 1),
            "loop_spills": loop.count(machine_code.SPILLS),
            "repeats": round(loop.count(machine_code.EXPONENTIALS) / per_thread / exponentials(launch), 2),
        }
    return used


def pairs_per_tile(launch: Launch) -> int | None:
    """Pairs that a program turns into coefficients in one round of its loop."""
    options = launch.options
    sizes = {
        "small_loss": ("TILE", "TILE"),
        "fused_loss": ("TILE", "COLUMNS"),
        "inner_products_to_coefficients": ("TILE_ROWS", "TILE_COLUMNS"),
    }.get(launch.kernel.__name__)
    return None if sizes is None else options[sizes[0]] * options[sizes[1]]


def exponentials(launch: Launch) -> int:
    """That a pair needs: Gaussians of all layers that are not the square of another."""
    return sum(not square for mixture in launch.options["LAYERS"].mixtures for square in mixture.squares)


def report(target: str) -> dict[str, dict[str, Any]]:
    """`resources` of every kernel of tests.kernels.variants, by name."""
    vendor = "amd" if TARGETS[target].backend == "hip" else "nvidia"
    capability = TARGETS[target].arch // 10 if vendor == "nvidia" else None
    return {name: resources(launch, compile(launch, target)) for name, launch in unique_launches(vendor, capability)}


def table(reports: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Instructions per pair of every kernel that has pairs, by target; after a plus the spills among them."""
    names = [name for name, used in next(iter(reports.values())).items() if "per_pair" in used]
    width = max(map(len, names))
    lines = [" ".join([" " * width, *(f"{target:>9}" for target in reports)])]
    for name in names:
        cells = [_cell(report.get(name)) for report in reports.values()]
        lines.append(" ".join([name.ljust(width), *(f"{cell:>9}" for cell in cells)]))
    return "\n".join(lines)


def _cell(used: dict[str, Any] | None) -> str:
    if used is None:
        return "-"
    return f"{used['per_pair']}" + (f"+{used['loop_spills']}" if used["loop_spills"] else "")


def _tool(name: str, *args: str) -> str:
    return subprocess.run([str(_TOOLS / name), *args], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    if len(sys.argv) > 1:  # one target, for a process of its own
        json.dump(report(sys.argv[1]), sys.stdout)
    else:
        REPORT.parent.mkdir(exist_ok=True)
        reports = {target: report(target) for target in TARGETS}
        print(table(reports))
        REPORT.write_text(json.dumps(reports, indent=1) + "\n")
