"""Compiles the CUDA kernels for GPUs that are not here, and notes what the assembler says each of them uses and what
their machine code holds (tests/machine_code.py).

    python -m tests.csrc.cuda_resources     # prints tables and writes resources/nvcc-VERSION.json

test_cuda_resources.py compares with that report. Neither a GPU nor a driver is needed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from tests import machine_code

SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
REPORTS = Path(__file__).parent / "resources"
TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
FLAGS = ("-O3", "-std=c++17", "-DNDEBUG", "-lineinfo")  # as in csrc/CMakeLists.txt
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")

# registers: per thread; stack, spill_stores, spill_loads: bytes per thread; shared: bytes per thread block;
# matrix: shapes of the matrix instructions, none for plain arithmetic. Of kernels with exponentials also
# loop_spills: spill instructions in the loop over pairs. Of those that are compiled for usual mixtures also
# per_pair: instructions of that loop per pair, copies and products included, loops inside it not (the first product).
Resources = dict[str, Any]


def version() -> str | None:
    """nvcc's version, such as "13.0.88"; None where there is no nvcc."""
    if NVCC is None:
        return None
    output = subprocess.run([NVCC, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"\bV(\d+\.\d+\.\d+)", output)[1]


def report_path(version: str) -> Path:
    return REPORTS / f"nvcc-{version.rpartition('.')[0]}.json"


def compile(targets: tuple[str, ...] = TARGETS) -> dict[str, dict[str, Resources]]:
    """target -> "file: kernel" -> resources, for every kernel in csrc/cuda. Constants and dynamic shared memory are
    not in it: the assembler knows only what is declared static."""
    sources = sorted(SOURCES.glob("*.cu"))
    jobs = [(target, source) for target in targets for source in sources]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        compiled = list(pool.map(lambda job: _compile(*job), jobs))
    report: dict[str, dict[str, Resources]] = {target: {} for target in targets}
    for (target, source), kernels in zip(jobs, compiled, strict=True):
        report[target] |= {f"{source.stem}: {name}": kernels[name] for name in sorted(kernels)}
    return report


def _compile(target: str, source: Path) -> dict[str, Resources]:
    with tempfile.TemporaryDirectory() as folder:
        command = [NVCC, *FLAGS, f"-arch={target}", "-cubin", "-Xptxas=-v", str(source), "-o", f"{folder}/cubin"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{source.name} for {target}: {done.stderr[-6000:]}")
        kernels = parse(done.stdout + done.stderr)
        code = machine_code.kernels(machine_code.disassembly(Path(folder, "cubin")))
    for mangled, full in _demangled(list(code)).items():
        name = short_name(full)
        kernels[name] |= counts(name, code[mangled])
    return kernels


def counts(name: str, code: str) -> Resources:
    """What the machine code of a kernel holds."""
    shapes = sorted(set(re.findall(r"\b((?:H|D|HG|UTC\w?)MMA[.\w]*)", code)))
    pairs = pair_code(code)
    exponentials = pairs.count(machine_code.EXPONENTIALS)
    if not exponentials:
        return {"matrix": shapes}
    counted: Resources = {"matrix": shapes, "loop_spills": pairs.count(machine_code.SPILLS)}
    if (per_pair := exponentials_per_pair(name)) is not None:
        counted["per_pair"] = round(pairs.instructions / (exponentials / per_pair), 1)
    return counted


def pair_code(code: str) -> machine_code.Loop:
    """The loop over pairs; where there is none, what follows the barrier behind which the mixtures are there."""
    loop = machine_code.pair_loop(code)
    if (loop.first, loop.last) != (0, len(loop.blocks) - 1):
        return loop
    kinds = [
        (any(name.startswith("BAR.SYNC") for name in block.names), any(name == "MUFU.EX2" for name in block.names))
        for block in loop.blocks
    ]
    pairs = next((index for index, (_, exponential) in enumerate(kinds) if exponential), 0)
    first = max([index for index, (barrier, _) in enumerate(kinds[: pairs + 1]) if barrier], default=0)
    nested = tuple([inner for inner in loop.nested if inner.first >= first])
    return machine_code.Loop(loop.blocks, first, loop.last, nested)


def exponentials_per_pair(name: str) -> int | None:
    """Of a kernel that is compiled for usual mixtures (csrc/cuda/plan.h): one per layer, and one more for every three
    Gaussians of the first; None for others."""
    sizes = r"(\d), ([1-9])"  # layers, Gaussians of the first
    match = re.fullmatch(rf"(?:fused_loss<\w+, {sizes}, \d>|gemm_coefficients<\w+, \w+, {sizes}>)", name)
    if match is None:
        return None
    layers, gaussians = (int(number) for number in match.groups() if number is not None)
    return layers + (gaussians - 1) // 3


def parse(output: str) -> dict[str, Resources]:
    """Resources by readable name, from the output of nvcc -Xptxas -v for one file and target."""
    mangled: dict[str, Resources] = {}
    for section in re.split(r"Compiling entry function '", output)[1:]:
        name = section.partition("'")[0]
        # Functions that are called instead of inlined come first or last in the section; their spills are the kernel's.
        stack, stores, loads = (
            [int(n) for n in re.findall(rf"(\d+) bytes {what}", section)]
            for what in ("stack frame", "spill stores", "spill loads")
        )
        shared = re.search(r"(\d+) bytes smem", section)
        mangled[name] = {
            "registers": int(re.search(r"Used (\d+) registers", section)[1]),
            "stack": sum(stack),
            "spill_stores": sum(stores),
            "spill_loads": sum(loads),
            "shared": int(shared[1]) if shared else 0,
        }
    named = {short_name(full): mangled[name] for name, full in _demangled(list(mangled)).items()}
    assert len(named) == len(mangled), f"two kernels share a name: {sorted(named)}"
    return named


def short_name(full: str) -> str:
    """The name of a demangled kernel without return type, namespaces and parameters: ``gram<float, 64>``."""
    full = re.sub(r"\(anonymous namespace\)::|\b_GLOBAL__N__\w+::|\bfastmmd::|\bcuda::", "", full)
    full = full.replace("__nv_bfloat16", "bf16")
    full = re.sub(r"\((\w+)\)(\d+)", lambda cast: _enumerator(*cast.groups()), full)
    depth = 0
    for i, c in enumerate(full):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:  # where the parameters begin
            full = full[:i]
            break
    return full.removeprefix("void ")


@cache
def _enumerator(enum: str, value: str) -> str:
    """The name that csrc/cuda gives to ``(Format)1``, as enumerators are demangled."""
    for header in sorted(SOURCES.glob("*.*h")):
        if declaration := re.search(rf"enum class {enum}\b[^{{]*{{([^}}]*)}}", header.read_text()):
            return declaration[1].split(",")[int(value)].strip()
    return f"({enum}){value}"


def _demangled(names: list[str]) -> dict[str, str]:
    if not names:
        return {}
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def table(report: dict[str, dict[str, Resources]]) -> str:
    """One line per kernel: registers for each target, and after a plus the bytes that it spills (stores and loads)."""
    names = list(dict.fromkeys(name for kernels in report.values() for name in kernels))
    width = max(map(len, names))
    lines = [" ".join([" " * width, *(f"{target:>10}" for target in report)])]
    for name in names:
        cells = []
        for kernels in report.values():
            resources = kernels[name]
            spills = resources["spill_stores"] + resources["spill_loads"]
            cells.append(f"{resources['registers']}{f'+{spills}' if spills else ''}")
        lines.append(" ".join([name.ljust(width), *(f"{cell:>10}" for cell in cells)]))
    return "\n".join(lines)


def pair_table(report: dict[str, dict[str, Resources]]) -> str:
    """One line per kernel of usual mixtures: instructions per pair for each target."""
    names = [name for name, used in report["sm_90"].items() if "per_pair" in used]
    width = max(map(len, names))
    lines = [" ".join([" " * width, *(f"{target:>7}" for target in report)])]
    for name in names:
        cells = [f"{kernels[name].get('per_pair', '-'):>7}" for kernels in report.values()]
        lines.append(" ".join([name.ljust(width), *cells]))
    return "\n".join(lines)


if __name__ == "__main__":
    nvcc_version = version()
    if nvcc_version is None:
        raise SystemExit("there is no nvcc here")
    report = compile()
    print(f"registers + bytes spilled\n{table(report)}\n\ninstructions per pair\n{pair_table(report)}")
    path = report_path(nvcc_version)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"nvcc": nvcc_version, **report}, indent=1) + "\n")
