"""Tests of the Triton kernels' values need its interpreter, and a process of their own: tests/kernels/interpreted."""

from fastmmd.backends import triton

collect_ignore = [] if triton.interpreted() else ["kernels/interpreted"]

if triton.interpreted():
    from tests.kernels import interpreter

    interpreter.correct()
