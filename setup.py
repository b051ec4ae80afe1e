"""Drives CMake for csrc/. Metadata and settings are in pyproject.toml.

Environment:
    FASTMMD_CPU=on|off   build the C++ kernels (default on). "off" installs pure Python, and build_info() says so.
    CXX, CMAKE_ARGS      the compiler and further CMake arguments, as usual.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        out = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = (Path(self.build_temp) / "csrc").resolve()
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "--fresh",  # a cached path may point into an isolated build environment that is gone
            *("-S", str(ROOT / "csrc"), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={out.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DCMAKE_BUILD_TYPE=Release",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        out.parent.mkdir(parents=True, exist_ok=True)
        self._run("configuring", configure)
        self._run("compiling", ["cmake", "--build", str(build)])
        print(f"fastmmd: built the CPU kernels ({out.name})")

    def _run(self, what: str, command: list[str]) -> None:
        if shutil.which(command[0]) is None:
            raise CompileError(f"fastmmd: {command[0]} not found; it comes with `pip install cmake ninja`")
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        except OSError as error:
            raise CompileError(f"fastmmd: {what} failed: {error}") from error
        if done.returncode != 0:
            print(done.stdout, file=sys.stderr)
            raise CompileError(
                f"fastmmd: {what} the C++ kernels failed (the compiler's words stand above). They need a C++17 "
                "compiler (tested with gcc 12 and clang 16; CXX chooses) and CMake >= 3.24. "
                "FASTMMD_CPU=off installs without them."
            )


def wants_cpu() -> bool:
    choice = os.environ.get("FASTMMD_CPU", "on").lower()
    if choice not in ("on", "off"):
        raise SystemExit(f"fastmmd: FASTMMD_CPU: expected on or off, got {choice!r}")
    return choice == "on"


setup(
    ext_modules=[Extension("fastmmd._C", sources=[])] if wants_cpu() else [],
    cmdclass={"build_ext": CMakeBuild},
)
