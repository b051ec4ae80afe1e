"""Triton's interpreter, made honest.

As it comes, it multiplies bf16 operands as bit patterns, truncates in bf16 casts instead of rounding, and computes
"tf32" and "tf32x3" products at fp32 accuracy, so that a bad choice of precision would pass here and fail on a GPU.
`correct` replaces the two operations; with Triton 3.6 and NumPy >= 2.4 it also makes run-time loop bounds work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter

_Builder = interpreter.InterpreterBuilder


def correct() -> None:
    cast = _Builder.cast_impl

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        if source.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            return interpreter.TensorHandle(_to_bf16(source.data), tl.bfloat16)
        return cast(self, source, to)

    _Builder.cast_impl = cast_impl
    _Builder.create_fp_trunc = cast_impl
    _Builder.create_dot = _dot
    if triton.__version__.startswith("3.6."):
        patch = interpreter._patch_lang_tensor

        def patch_tensor(tensor: Any, scope: Any) -> None:
            patch(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

        interpreter._patch_lang_tensor = patch_tensor


def _dot(self: Any, a: Any, b: Any, total: Any, input_precision: Any, *_: Any) -> Any:
    x, y = (_from_bf16(t.data) if t.dtype.scalar == tl.bfloat16 else t.data for t in (a, b))
    if a.dtype.scalar == tl.float32:
        precision = getattr(input_precision, "name", str(input_precision)).lower()
        if precision == "tf32":
            x, y = _truncated_to_tf32(x), _truncated_to_tf32(y)
        elif precision == "tf32x3":
            x_high, y_high = _truncated_to_tf32(x), _truncated_to_tf32(y)
            x_low, y_low = _truncated_to_tf32(x - x_high), _truncated_to_tf32(y - y_high)
            product = x_low @ y_high + x_high @ y_low + x_high @ y_high
            return interpreter.TensorHandle(product + total.data, total.dtype.scalar)
    return interpreter.TensorHandle(np.matmul(x, y, dtype=total.data.dtype) + total.data, total.dtype.scalar)


def _truncated_to_tf32(x: np.ndarray) -> np.ndarray:
    """What a tensor core does with the fp32 bits that it gets."""
    return (np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def _from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bf16(x: np.ndarray) -> np.ndarray:
    """To nearest, ties to even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    nearest = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), nearest)
