"""Which GPUs the CUDA kernels are compiled for, and with what flags. Nothing is compiled here."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.csrc import cuda_resources

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cuda_resources.NVCC is None, reason="there is no nvcc here"),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="there is no cmake here"),
]


def compile_commands(folder: Path, archs: str, gpus: str) -> list[str]:
    """The command that compiles each .cu file, where nvidia-smi prints `gpus`."""
    nvidia_smi = folder / "nvidia-smi"
    nvidia_smi.write_text(f"#!/bin/sh\nprintf '{gpus}'\n")
    nvidia_smi.chmod(0o755)
    pybind11 = subprocess.run([sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True)
    command = ["cmake", "-S", ROOT / "csrc", "-B", folder / "build", "-G", "Ninja", "-DFASTMMD_CUDA=on"]
    command += [f"-DFASTMMD_CUDA_ARCHS={archs}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    command += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.stdout.strip()}"]
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = json.loads((folder / "build" / "compile_commands.json").read_text())
    return [entry["command"] for entry in entries if entry["file"].endswith(".cu")]


@pytest.mark.parametrize(
    ("archs", "gpus", "expected"),
    [
        pytest.param("", "No devices were found\\n", "sm_80 sm_90 compute_90", id="no GPU"),
        pytest.param("", "7.5\\n", "sm_75", id="a GPU without tensor cores for all formats, so no PTX"),
        pytest.param("", "9.0\\n8.6\\n9.0\\n", "sm_86 sm_90 compute_90", id="several GPUs"),
        pytest.param("90a", "8.0\\n", "sm_90a", id="named"),
        pytest.param(
            "all",
            "8.0\\n",
            "sm_75 sm_80 sm_86 sm_89 sm_90 sm_100 compute_100 sm_120",
            id="all",
            marks=pytest.mark.skipif((cuda_resources.version() or "0") < "12.8", reason="nvcc < 12.8 knows fewer"),
        ),
    ],
)
def test_kernels_are_compiled_for_the_gpus_that_are_here_or_named(tmp_path, archs, gpus, expected):
    commands = compile_commands(tmp_path, archs, gpus)
    assert len(commands) == len(list(cuda_resources.SOURCES.glob("*.cu")))
    for command in commands:
        assert set(re.findall(r",code=\[?(\w+)", command)) == set(expected.split())
        assert "-lineinfo" in command  # what names lines to profilers and sanitizers
