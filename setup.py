"""Drives CMake for csrc/. Metadata and settings are in pyproject.toml. `pip install -v .` shows what it does meanwhile.

Environment:
    FASTMMD_CPU=on|off         build the extension (default on). "off" installs pure Python, and build_info() says so.
    FASTMMD_CUDA=auto|on|off   build the CUDA kernels into it (default auto: if there is an nvcc that works, whether or
                               not there is a GPU). "on" fails where there is none. build_info() says what was built.
                               nvcc is looked for in CUDACXX, CUDA_HOME/bin, CUDA_PATH/bin, PATH, /usr/local/cuda/bin.
    FASTMMD_CUDA_ARCHS         GPUs to compile them for, such as "80;90" or "90a"; "all": 75 80 86 89 90 100 120, those
                               that nvcc knows. Default: the GPUs that are here (nvidia-smi), else 80 and 90. PTX of one
                               of them is added, for later GPUs.
    CXX, CUDACXX, CUDAHOSTCXX, CMAKE_ARGS
                               the compilers, nvcc's C++ compiler and further CMake arguments, as usual.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent


def choice(name: str, *allowed: str) -> str:
    """The environment variable's value; the first is the default."""
    value = os.environ.get(name, "").lower() or allowed[0]
    if value not in allowed:
        raise SystemExit(f"fastmmd: {name}: expected {', '.join(allowed[:-1])} or {allowed[-1]}, got {value!r}")
    return value


def cuda_archs() -> str:
    """FASTMMD_CUDA_ARCHS as a CMake list."""
    archs = re.split(r"[;,\s]+", os.environ.get("FASTMMD_CUDA_ARCHS", "").strip(";, "))
    for arch in archs:
        if archs not in ([""], ["all"]) and not re.fullmatch(r"\d{2,3}[af]?", arch):
            raise SystemExit(
                f'fastmmd: FASTMMD_CUDA_ARCHS: expected numbers such as "80;90" or "90a", or "all", got {arch!r}'
            )
    return ";".join(archs)


CPU, CUDA, CUDA_ARCHS = choice("FASTMMD_CPU", "on", "off"), choice("FASTMMD_CUDA", "auto", "on", "off"), cuda_archs()
if (CPU, CUDA) == ("off", "on"):
    raise SystemExit("fastmmd: FASTMMD_CPU=off installs pure Python, so FASTMMD_CUDA=on can't go with it")


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
            f"-DFASTMMD_CUDA={CUDA}",
            f"-DFASTMMD_CUDA_ARCHS={CUDA_ARCHS}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        out.parent.mkdir(parents=True, exist_ok=True)
        notes = self._run("configuring", configure)
        self._run("compiling", ["cmake", "--build", str(build)])
        print(f"fastmmd: built {out.name}: {notes[-1]}", flush=True)

    def _run(self, what: str, command: list[str]) -> list[str]:
        """Shows each line as it comes. Returns what CMakeLists.txt says to whoever installs; after a failure that is
        the error."""
        if shutil.which(command[0]) is None:
            raise CompileError(f"fastmmd: {command[0]} not found; it comes with `pip install cmake ninja`")
        print(f"fastmmd: {what}", flush=True)
        notes = []
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        except OSError as error:
            raise CompileError(f"fastmmd: {what} failed: {error}") from error
        with process:
            for line in process.stdout:
                print(line, end="", flush=True)
                if line.startswith("fastmmd: "):
                    notes.append(line.removeprefix("fastmmd: ").strip())
        if process.returncode == 0:
            return notes
        if what == "configuring" and notes:
            raise CompileError(f"fastmmd: {notes[-1]}")
        raise CompileError(
            f"fastmmd: {what} the C++ kernels failed (the compiler's words stand above). They need a C++17 "
            "compiler (tested with gcc 12 and clang 16; CXX chooses) and CMake >= 3.24. "
            "FASTMMD_CUDA=off leaves the CUDA kernels out; FASTMMD_CPU=off installs without any."
        )


setup(
    license="Apache-2.0",  # not in pyproject.toml: how it is written there depends on setuptools' version
    ext_modules=[Extension("fastmmd._C", sources=[])] if CPU == "on" else [],
    cmdclass={"build_ext": CMakeBuild},
)
