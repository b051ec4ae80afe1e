"""The CUDA kernels' values: pytest again, in processes whose extension runs them on the CPU, one fiber per thread.

tests/csrc/cuda_on_host/check_kernels runs them under sanitizers.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda_on_host")
    command = [str(ROOT / "tests/csrc/cuda_on_host/build"), str(folder), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-8000:]
    return next(folder.glob("_C*.so"))


ROUTES = "tests/cuda/on_host"
# "many_rows": of weights of pairs, of which route small takes up to 256 rows.
PUBLIC = ("tests/test_backends.py", "tests/test_gradients.py", "tests/test_invariances.py", "tests/test_nan.py")
# An infinite feature is infinitely far from all others: where the bandwidth is no mean, that makes no NaN in this
# route, with weights or without.
WEIGHTS = (
    *[f"tests/test_{name}.py" for name in ("sample_weights", "local_mmd", "pairwise", "forms")],
    "-k",
    "cuda and not many_rows and not (broken_row and inf)",
)
BENCH = (
    "tests/bench/test_tune.py",
    "tests/bench/test_gate.py",
    "tests/bench/test_variants.py",
    "tests/bench/test_form_values.py",
)
SAMPLE = (ROUTES, "-k", "test_fp64 or one_sided or dtype")


@pytest.mark.parametrize(
    ("order", "arguments"),
    [
        pytest.param("forward", (ROUTES,), id="routes"),
        pytest.param("forward", (*PUBLIC, "-k", "cuda and not many_rows"), id="public"),
        pytest.param("forward", WEIGHTS, id="weights"),
        pytest.param("forward", BENCH, id="bench"),
        pytest.param("reverse", SAMPLE, id="reverse threads"),
        pytest.param("shuffled", SAMPLE, id="shuffled threads"),
    ],
)
def test_on_the_host(extension, order, arguments):
    environment = os.environ | {
        "FASTMMD_TEST_EXTENSION": str(extension),
        "FASTMMD_THREAD_ORDER": order,
        "OMP_WAIT_POLICY": "passive",
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=5", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-20000:]}\n{done.stderr[-4000:]}"
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 20
