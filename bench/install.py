"""Builds this checkout for the GPU at hand: with pip, or where that can't, with CMake into the source tree.

    python -m bench.install

Nothing is downloaded. CUDA kernels are compiled for this GPU alone, unless FASTMMD_CUDA_ARCHS names others. An
extension in the source tree, fastmmd/_C*.so, goes before an installed one: remove it to return to that.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    settings = dict(os.environ)
    if torch.cuda.is_available() and torch.version.hip is None:
        settings.setdefault("FASTMMD_CUDA_ARCHS", "{}{}".format(*torch.cuda.get_device_capability()))
    reason = outdated_setuptools()
    if reason is None and (status := pip_install(settings)) != 0:
        reason = f"pip ended with status {status}"
    if reason is not None:
        print(f"CMake builds into the source tree, since {reason}", flush=True)
        if (status := cmake_build(settings)) != 0:
            return status
    return subprocess.run([sys.executable, "-m", "bench.environment"], cwd=ROOT).returncode


def outdated_setuptools() -> str | None:
    """Why the setuptools at hand can't read pyproject.toml; None if it can."""
    needed = re.search(r"setuptools>=(\d+)", (ROOT / "pyproject.toml").read_text())
    try:
        version = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        return "setuptools is not installed"
    if needed and int(version.split(".")[0]) < int(needed[1]):
        return f"setuptools is {version}, and pyproject.toml needs {needed[1]}"
    return None


def pip_install(settings: dict[str, str]) -> int:
    """pip's exit status. Prints what the build says of itself as it comes; all of it if that fails."""
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check")
    command = (sys.executable, "-m", "pip", "install", "-v", *options, str(ROOT))
    status, said = _stream(command, settings)
    if status:
        print(said, flush=True)
    return status


def _stream(command: Sequence[str], settings: dict[str, str]) -> tuple[int, str]:
    """The exit status and all output, whose lines for whoever installs are printed as they come."""
    said = []
    with subprocess.Popen(
        command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            if line.lstrip().startswith("fastmmd: "):
                print(line.strip(), flush=True)
    return process.returncode, "".join(said)


def cmake_build(settings: dict[str, str], target: Path = ROOT / "fastmmd") -> int:
    """CMake's exit status. Its output streams; the extension goes to `target`."""
    try:
        import pybind11
    except ModuleNotFoundError:
        print("pybind11 is not installed", flush=True)
        return 1
    with tempfile.TemporaryDirectory() as build:
        configure = (
            "cmake",
            *("-S", str(ROOT / "csrc"), "-B", build, "-G", "Ninja"),
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DFASTMMD_CUDA={settings.get('FASTMMD_CUDA', 'auto')}",
            f"-DFASTMMD_CUDA_ARCHS={settings.get('FASTMMD_CUDA_ARCHS', '')}",
        )
        for command in (configure, ("cmake", "--build", build)):
            try:
                status = subprocess.run(command, env=settings).returncode
            except OSError as error:
                print(f"{command[0]}: {error}", flush=True)
                return 1
            if status != 0:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
