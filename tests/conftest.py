"""Kernels for GPUs are tested on the CPU in processes of their own: Triton's in its interpreter
(tests/kernels/interpreted), CUDA's in an extension built with tests/csrc/cuda_on_host/build (tests/cuda/on_host), which
FASTMMD_TEST_EXTENSION names."""

import importlib.util
import os
import sys

import pytest

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # of pytest-xdist; before torch is imported
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(workers)))

if path := os.environ.get("FASTMMD_TEST_EXTENSION"):
    spec = importlib.util.spec_from_file_location("fastmmd._C", path)
    sys.modules["fastmmd._C"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["fastmmd._C"])

if importlib.util.find_spec("fastmmd.models") is None:
    pytest.exit("fastmmd.kernels and fastmmd.models are missing: run `pip install -e '.[test]'` in the checkout", 4)

import torch

from fastmmd import extension
from fastmmd.backends import triton
from tests.skips import pytest_sessionfinish, pytest_terminal_summary  # noqa: F401 hooks

if importlib.util.find_spec("hypothesis"):  # the tests that need a GPU do without
    from hypothesis import HealthCheck, settings

    settings.register_profile(  # a busy machine is no failure
        "fastmmd",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        derandomize="FASTMMD_CI" in os.environ,
    )
    settings.load_profile("fastmmd")


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Whatever ran before a test in its process: what fails once fails again."""
    torch.manual_seed(0)


on_host = extension.module is not None and extension.module.CUDA_ON_HOST
collect_ignore = [
    *([] if triton.interpreted() else ["kernels/interpreted"]),
    *([] if on_host else ["cuda/on_host"]),
]

if triton.interpreted():
    from tests.kernels import interpreter

    interpreter.correct()
