"""Kernels for GPUs are tested on the CPU in processes of their own: Triton's in its interpreter
(tests/kernels/interpreted), CUDA's in an extension built with tests/csrc/cuda_on_host/build (tests/cuda/on_host), which
FASTMMD_TEST_EXTENSION names."""

import importlib.util
import os
import sys

if path := os.environ.get("FASTMMD_TEST_EXTENSION"):
    spec = importlib.util.spec_from_file_location("fastmmd._C", path)
    sys.modules["fastmmd._C"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["fastmmd._C"])

from fastmmd import compiled
from fastmmd.backends import triton

on_host = compiled.module is not None and compiled.module.CUDA_ON_HOST
collect_ignore = [
    *([] if triton.interpreted() else ["kernels/interpreted"]),
    *([] if on_host else ["cuda/on_host"]),
]

if triton.interpreted():
    from tests.kernels import interpreter

    interpreter.correct()
