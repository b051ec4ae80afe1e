"""Installs this checkout for the GPU at hand, as `pip install -e .` does.

    python -m bench.install

Nothing is downloaded. CUDA kernels are compiled for this GPU alone, unless FASTMMD_CUDA_ARCHS names others. Where pip
can't, CMake builds into the source tree, and links in fastmmd/ make kernels/ and models/ importable from the root of
the checkout. `pip uninstall fastmmd` undoes the one, `rm fastmmd/_C*.so fastmmd/kernels fastmmd/models` the other.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = ("kernels", "models")  # packages of fastmmd that lie beside its folder: an editable install maps them


def main() -> int:
    signal.signal(signal.SIGTERM, _end)
    settings = dict(os.environ)
    if torch.cuda.is_available() and torch.version.hip is None:
        settings.setdefault("FASTMMD_CUDA_ARCHS", "{}{}".format(*torch.cuda.get_device_capability()))
    unlink_packages()  # of an earlier run: setuptools would rely on them and map nothing
    try:
        reason = outdated_setuptools() or pip_install(settings) or not_importable()
    except SystemExit:  # out of time: what needs no extension can still be measured
        link_packages()
        raise
    if reason is not None:
        print(f"CMake builds into the source tree, since {reason}", flush=True)
        link_packages()
        if (status := cmake_build(settings)) != 0:
            return status
    return subprocess.run([sys.executable, "-m", "bench.environment"], cwd=ROOT).returncode


def _end(*_: object) -> None:
    """Ends the process, once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


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


def pip_install(settings: dict[str, str]) -> str | None:
    """Why pip can't; None if it has installed the checkout. Prints the build's own lines as they come, and all of them
    if it fails."""
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check")
    command = (sys.executable, "-m", "pip", "install", "-v", *options, "-e", str(ROOT))
    status, output = _stream(command, settings)
    if status == 0:
        return None
    print(output, flush=True)
    return f"pip ended with status {status}"


def _stream(command: Sequence[str], settings: dict[str, str]) -> tuple[int, str]:
    """The exit status and all output. Lines of setup.py, which begin with "fastmmd:", are printed as they come."""
    lines = []
    with subprocess.Popen(
        command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if line.lstrip().startswith("fastmmd: "):
                print(line.strip(), flush=True)
    return process.returncode, "".join(lines)


def not_importable() -> str | None:
    """Why what pip has installed is of no use; None if Python finds all of fastmmd from the root of the checkout."""
    program = "; ".join(f"import fastmmd.{package}" for package in ELSEWHERE)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    return f"what pip has installed can't be imported: {done.stderr.strip().rpartition(chr(10))[2]}"


def link_packages(checkout: Path = ROOT) -> None:
    """Makes links to what is `ELSEWHERE`, in the place of an editable install."""
    unlink_packages(checkout)
    for package in ELSEWHERE:
        (checkout / "fastmmd" / package).symlink_to(Path("..") / package, target_is_directory=True)


def unlink_packages(checkout: Path = ROOT) -> None:
    """Removes the links that `link_packages` makes."""
    for package in ELSEWHERE:
        if (link := checkout / "fastmmd" / package).is_symlink():
            link.unlink()


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
            "-S",
            str(ROOT / "csrc"),
            "-B",
            build,
            "-G",
            "Ninja",
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
