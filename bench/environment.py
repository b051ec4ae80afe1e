"""Where a measurement was made: without this a number means nothing."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

import fastmmd


def describe(device: torch.device) -> dict[str, str | int | bool | None]:
    """Versions, processor, threads, compiled variant, git revision and whether tracked files differ from it."""
    info = fastmmd.build_info()
    compiled = info["compiled"]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "fastmmd": info["version"],
        "revision": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "compiler": compiled and compiled["compiler"],
        "cpu_variant": compiled and compiled["cpu_variants"][0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


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
