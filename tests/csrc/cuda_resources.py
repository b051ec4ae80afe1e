"""Compiles the CUDA kernels for GPUs that are not here, and notes what the assembler says each of them uses.

    python -m tests.csrc.cuda_resources     # prints a table and writes resources/nvcc-VERSION.json

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

SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
REPORTS = Path(__file__).parent / "resources"
TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
FLAGS = ("-O3", "-std=c++17", "-DNDEBUG", "-lineinfo")  # as in csrc/CMakeLists.txt
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")

# registers: per thread; stack, spill_stores, spill_loads: bytes per thread; shared: bytes per thread block
Resources = dict[str, int]


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
    return parse(done.stdout + done.stderr)


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


if __name__ == "__main__":
    nvcc_version = version()
    if nvcc_version is None:
        raise SystemExit("there is no nvcc here")
    report = compile()
    print(table(report))
    path = report_path(nvcc_version)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"nvcc": nvcc_version, **report}, indent=1) + "\n")
