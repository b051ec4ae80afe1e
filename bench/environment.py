"""Where a measurement was made: without this a number means nothing.

python -m bench.environment      what a GPU's measurements need and find here; exit status 2 if something is missing
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

import fastmmd


def main() -> int:
    if (reason := missing()) is not None:
        print(f"cannot measure here: {reason}", file=sys.stderr)
        return 2
    for key, value in describe(torch.device("cuda", torch.cuda.current_device())).items():
        print(f"{key + ':':18} {value}", flush=True)
    for backend, reason in fastmmd.build_info()["backends"].items():
        print(f"{'backend ' + backend + ':':18} {reason or 'runs'}", flush=True)
    return 0


def missing() -> str | None:
    """What measuring a GPU lacks on this machine; None if nothing."""
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda or torch.version.hip else " (this PyTorch is built without CUDA)"
        return f"no CUDA device{built}. It takes a GPU of compute capability 8.0 or above and PyTorch for CUDA."
    absent = [package for package in ("triton", "pytest", "numpy") if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def describe(device: torch.device) -> dict[str, str | int | bool | None]:
    """Versions, processor, threads, compiled variant, git revision and whether tracked files differ from it."""
    info = fastmmd.build_info()
    compiled = info["compiled"]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "fastmmd": info["version"],
        "revision": _git("rev-parse", "HEAD") or os.environ.get("FASTMMD_REVISION"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "compiler": compiled and compiled["compiler"],
        "cuda_kernels": compiled and compiled["cuda"],
        "cpu_variant": compiled and compiled["cpu_variants"][0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        **(_gpu(device) if device.type == "cuda" else {"gpu": None, "cuda": None}),
    }


def _gpu(device: torch.device) -> dict[str, str | int | None]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "cuda": torch.version.cuda,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", pattern=r"\S+"),
        "triton": _version("triton"),
        "nvcc": _output("nvcc", "--version", pattern=r"release (\S+),"),
        "numpy": _version("numpy"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str, pattern: str) -> str | None:
    """What `pattern` matches first in the output of a tool; None if there is no such tool, or it fails."""
    program = tool(command[0])
    if program is None:
        return None
    match = re.search(pattern, subprocess.run([program, *command[1:]], capture_output=True, text=True).stdout)
    return match and match[match.re.groups]  # the group, or all of it where there is none


def tool(name: str) -> str | None:
    """The path of a program, in PATH or CUDA's usual folder; None: it is not there."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


def _git(*arguments: str) -> str | None:
    """The answer of git about this checkout; None without git or outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(main())
