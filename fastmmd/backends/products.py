"""The matrix products of route "gemm", by torch's library, in the format asked for.

| format | operands | sums | layout of the operands |
|---|---|---|---|
| bf16 | bf16 | fp32 | any: the tensor cores read 16-bit operands along either dimension |
| tf32 | fp32 | fp32 | contiguous along the summed dimension: for 32-bit operands Hopper's have no other |
| ieee | fp32 or fp64 | likewise | any |
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# The first torch that was seen to add products of bf16 to an fp32 matrix (2.8 and 2.9 want that matrix in bf16 too).
FP32_SUMS_OF_BF16 = (2, 11)


class Operands(NamedTuple):
    """The packed rows of one layer, as products read them.

    rows: ``[N', width]``, bf16, fp32 or fp64.
    transposed: ``[width, N']``, contiguous, for "tf32"; else None.
    """

    rows: Tensor
    transposed: Tensor | None


def library_format(device: torch.device, format: str) -> str:
    """ "bf16", "tf32" or "ieee": how the library multiplies on `device` where `format` is asked for, never less
    precisely."""
    if format == "bf16" and device.type == "cuda" and not _sums_bf16_in_fp32():
        return "tf32"
    return format if format in ("bf16", "tf32") else "ieee"


def operand_dtype(format: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of rows and coefficients in a library format, where `dtype` is that of sums."""
    return torch.bfloat16 if format == "bf16" else dtype


def inner_products(a: Tensor, b: Tensor, out: Tensor) -> None:
    """``out[rows, columns] = a[rows, d] b[columns, d]^T``, summed in the dtype of `out`."""
    if a.dtype == out.dtype:
        torch.mm(a, b.T, out=out)
    elif a.device.type == "cuda":
        torch.mm(a, b.T, out_dtype=out.dtype, out=out)
    else:
        torch.mm(a.to(out.dtype), b.T.to(out.dtype), out=out)  # exact: an fp32 product holds two of bf16


def add_weighted(total: Tensor, coefficients: Tensor, operands: Operands, columns: slice) -> None:
    """``total[rows, width] += coefficients[rows, columns] z[columns, width]``, summed in the dtype of `total`.

    For "tf32" `coefficients` must be contiguous along the columns.
    """
    z = operands.rows[columns] if operands.transposed is None else operands.transposed[:, columns].T
    if z.dtype == total.dtype:
        total.addmm_(coefficients, z)
    elif z.device.type == "cuda":
        torch.addmm(total, coefficients, z, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(coefficients.to(total.dtype), z.to(total.dtype))


def _sums_bf16_in_fp32() -> bool:
    version = tuple([int(part) for part in torch.__version__.split(".")[:2]])
    return torch.version.hip is None and version >= FP32_SUMS_OF_BF16
