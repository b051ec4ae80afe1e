"""Route "gemm" in bounded memory: the library's products over pairs of row panels, and what lies between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd.backends import products
from fastmmd.backends.gram import panel_pairs
from fastmmd.backends.products import Operands
from fastmmd.precision import matmul_precision

TILE = 64  # rows: panels are whole tiles, so that every matrix is aligned


class FormOperands(NamedTuple):
    """What the library multiplies of a form (`fastmmd.call.Form`), in full precision whatever the format.

    w: ``[N', P]``, W of the packed rows.
    wa: likewise W A; None where the library need not multiply weights of pairs.
    kw: likewise, to which K W is added; None where it is not wanted.
    """

    w: Tensor
    wa: Tensor | None
    kw: Tensor | None

    def multiply_weights(self, panel: slice, other: slice, out: Tensor) -> None:
        if self.wa is not None:
            with matmul_precision(out.device, "ieee"):
                torch.mm(self.w[panel], self.wa[other].T, out=out)

    def add_rows(self, kernel: Tensor, panel: slice, other: slice) -> None:
        if self.kw is not None:
            with matmul_precision(kernel.device, "ieee"):
                self.kw[panel].addmm_(kernel, self.w[other])
                if panel != other:
                    self.kw[other].addmm_(kernel.T, self.w[panel])


class PanelPair(NamedTuple):
    """What the pass between two products reads and writes of panels I <= J, one matrix per layer.

    first_row, first_column: where the panels begin among the packed rows.
    inner_products: ``[rows, columns]``, fp32 or fp64.
    coefficients: ``[rows, columns]`` in the operands' dtype, the inner products' memory if that is theirs; None where
        no gradient is needed.
    transposed: ``[columns, rows]``, the same coefficients for products in TF32; None where nobody needs them.
    of_form: ``[rows, columns]``, fp32 or fp64; with `FormOperands.wa` weights of pairs, which the pass reads, and with
        `FormOperands.kw` K, which it writes. None without `FormOperands`.
    """

    first_row: int
    first_column: int
    inner_products: list[Tensor]
    coefficients: list[Tensor | None]
    transposed: list[Tensor | None]
    of_form: Tensor | None


class Workspace(NamedTuple):
    """What lies between the products of a pair of panels; each pair takes it anew.

    side: rows of a panel.
    inner_products: ``[L, side^2]``, fp32 or fp64.
    coefficients: likewise: the same memory, or bf16.
    transposed: ``[L, side^2]``; None where products read coefficients along either dimension.
    of_form: ``[1, side^2]``, fp32 or fp64; None without `FormOperands`.
    """

    side: int
    inner_products: Tensor
    coefficients: Tensor
    transposed: Tensor | None
    of_form: Tensor | None


def make_workspace(
    total: int,
    layers: int,
    format: str,
    dtype: torch.dtype,
    device: torch.device,
    workspace_bytes: int,
    *,
    with_form: bool = False,
) -> Workspace:
    """Panels are of nearly equal size, and of whole tiles."""
    stored = products.operand_dtype(format, dtype)
    dtypes = [dtype] + ([] if stored == dtype else [stored]) + ([dtype] if format == "tf32" else [])
    bytes_per_pair = layers * sum([buffer.itemsize for buffer in dtypes]) + with_form * dtype.itemsize
    most = max(TILE, int((workspace_bytes / bytes_per_pair) ** 0.5) // TILE * TILE)
    panels = -(-total // most)
    side = -(-total // (panels * TILE)) * TILE
    inner_products, *others = [torch.empty((layers, side * side), dtype=buffer, device=device) for buffer in dtypes]
    return Workspace(
        side=side,
        inner_products=inner_products,
        coefficients=inner_products if stored == dtype else others[0],
        transposed=others[0] if format == "tf32" else None,
        of_form=torch.empty((1, side * side), dtype=dtype, device=device) if with_form else None,
    )


def multiplied(
    operands: Sequence[Operands],
    dims: Sequence[int],
    weighted: Sequence[Tensor | None],
    workspace: Workspace,
    form: FormOperands | None = None,
) -> Iterator[PanelPair]:
    """Yields each pair of panels with its inner products. The caller makes coefficients of them; then ``C [z, 1]`` is
    added to the rows of I and ``C^T [z, 1]`` to those of J in `weighted`, ``[N', width]`` per layer; likewise ``K W``
    of a form."""
    for panel, other in panel_pairs(len(operands[0].rows), workspace.side):
        rows, columns = panel.stop - panel.start, other.stop - other.start
        inner_products = _matrices(workspace.inner_products, rows, columns)
        coefficients = _matrices(workspace.coefficients, rows, columns)
        transposed: Sequence[Tensor | None] = [None] * len(operands)
        if workspace.transposed is not None and panel != other:
            transposed = _matrices(workspace.transposed, columns, rows)
        for out, z, d in zip(inner_products, operands, dims, strict=True):
            products.inner_products(z.rows[panel, :d], z.rows[other, :d], out)
        of_form = None if workspace.of_form is None else _matrices(workspace.of_form, rows, columns)[0]
        if form is not None and of_form is not None:
            form.multiply_weights(panel, other, of_form)
        yield PanelPair(
            first_row=panel.start,
            first_column=other.start,
            inner_products=inner_products,
            coefficients=_where_needed(coefficients, weighted),
            transposed=_where_needed(transposed, weighted),
            of_form=of_form,
        )
        for c, mirrored, z, total in zip(coefficients, transposed, operands, weighted, strict=True):
            if total is not None:
                products.add_weighted(total[panel], c, z, other)
                if panel != other:
                    products.add_weighted(total[other], c.T if mirrored is None else mirrored, z, panel)
        if form is not None and of_form is not None:
            form.add_rows(of_form, panel, other)


def _matrices(buffers: Tensor, rows: int, columns: int) -> list[Tensor]:
    """A ``[rows, columns]`` matrix per layer, at the beginning of its buffer."""
    return [buffer[: rows * columns].view(rows, columns) for buffer in buffers]


def _where_needed(matrices: Sequence[Tensor | None], weighted: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [matrix if total is not None else None for matrix, total in zip(matrices, weighted, strict=True)]
