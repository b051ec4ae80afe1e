"""The Triton kernels' values: pytest again, in a process whose Triton interprets its kernels on the CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
ROOT = Path(__file__).parents[2]
FILES = ("test_backends", "test_invariances", "bench/test_variants")
# Through the public interface: what a Python function around the kernels could get wrong.
PUBLIC = (
    "half_inputs or different_dtypes or strided or constant or negative or terms or never_written or median_of_zero "
    "or equal_samples or add_up or far_apart or long_chains or forced_routes"
)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("tests/kernels/interpreted",), id="routes", marks=pytest.mark.slow),
        pytest.param((*(f"tests/{name}.py" for name in FILES), "-k", f"triton and ({PUBLIC})"), id="public"),
        pytest.param(("tests/test_nan.py", "-k", "triton"), id="nan"),
    ],
)
def test_in_the_interpreter(arguments):
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=5", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-20000:]}\n{done.stderr[-4000:]}"
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 20
