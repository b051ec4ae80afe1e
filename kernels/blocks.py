"""Any number of rows and features: the platform's matrix products, and one fused pass between them.

For each pair of row blocks I <= J the library writes the inner products of every layer into a bounded workspace; one
kernel turns them in place into the coefficients C of all layers and adds to the sums; the library adds ``C [z, 1]`` to
the rows of I and ``C^T [z, 1]`` to those of J. The column of ones makes row sums, rounded as the products are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmmd.kernels.arithmetic import coefficients, count, joint_kernel, mixtures, weight_of_pair
from fastmmd.kernels.finish import empty_gradients, finished
from fastmmd.kernels.launch import launch
from fastmmd.kernels.pack import ROWS, pack
from fastmmd.kernels.plan import TRITON_DTYPE, Plan
from fastmmd.matmul import matmul_precision


@triton.jit(do_not_specialize=["n_source", "n_target", "source_rows"])
def inner_products_to_coefficients(
    inner,  # tuple of pointers [rows, columns]: inner products in, coefficients out
    norms,
    bandwidths,
    numbers,
    partials,  # [programs, 3, 1 + L] fp64; added to
    n_source,
    n_target,
    source_rows,
    first_row,  # of the block
    first_column,
    columns,  # of the block
    LAYERS: tl.constexpr,
    WANTED: tl.constexpr,
    TILE: tl.constexpr,
    DTYPE: tl.constexpr,
):
    L: tl.constexpr = count(LAYERS)
    row = first_row + tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = first_column + tl.program_id(1) * TILE + tl.arange(0, TILE)
    row_is_source = first_row + tl.program_id(0) * TILE < source_rows
    column_is_source = first_column + tl.program_id(1) * TILE < source_rows
    in_rows = row < tl.where(row_is_source, n_source, source_rows + n_target)
    in_columns = column < tl.where(column_is_source, n_source, source_rows + n_target)
    pair = in_rows[:, None] & in_columns[None, :] & (row[:, None] != column[None, :])
    block_row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    place = block_row[:, None] * columns + (tl.program_id(1) * TILE + tl.arange(0, TILE))[None, :]
    used, noises, squared = (), (), ()
    for l in tl.static_range(L):
        used = used + (tl.load(bandwidths + l),)
        noises = noises + (tl.load(bandwidths + L + l),)
        d = tl.load(norms[l] + row)[:, None] + tl.load(norms[l] + column)[None, :] - 2 * tl.load(inner[l] + place)
        squared = squared + (tl.maximum(d, 0.0, propagate_nan=tl.PropagateNan.ALL),)
    kernels, slopes = mixtures(squared, used, noises, LAYERS)

    # A block on the diagonal holds both triangles; one off it stands for its mirror image too.
    images = tl.where(first_row == first_column, 1.0, 2.0)
    same = row_is_source == column_is_source
    region = tl.where(same, tl.where(row_is_source, 0, 1), 2)
    slot = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * 3 + region
    for term in tl.static_range(1 + L):
        value = joint_kernel(kernels, LAYERS) if term == 0 else kernels[term - 1]
        total = tl.sum(tl.sum(tl.where(pair, value, 0.0), axis=1).to(tl.float64))
        at = partials + slot * (1 + L) + term
        tl.store(at, tl.load(at) + total * tl.where(same, images, 0.5 * images))

    pair_weight = weight_of_pair(row_is_source, column_is_source, numbers)
    for l in tl.static_range(L):
        if WANTED[l]:
            c = coefficients(l, pair_weight, kernels, slopes, numbers, LAYERS)
            tl.store(inner[l] + place, tl.where(pair, c, 0.0))


@triton.jit(do_not_specialize=["n_source", "n_target", "source_rows"])
def finish_gradients(
    weighted,  # tuple of pointers [padded rows, width]: C z, and after it the row sums of C; None where not needed
    packed,
    dims,
    widths,
    source_gradients,
    target_gradients,
    n_source,
    n_target,
    source_rows,
    L: tl.constexpr,
    TILE: tl.constexpr,
):
    first = tl.program_id(0) * TILE
    is_source = first < source_rows
    row = first + tl.arange(0, TILE)
    out_row = tl.where(is_source, row, row - source_rows).to(tl.int64)[:, None]
    in_rows = out_row < tl.where(is_source, n_source, n_target)
    for l in tl.static_range(L):
        if weighted[l] is not None:
            column = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
            at = row.to(tl.int64)[:, None] * widths[l]
            mask = in_rows & (column < dims[l])
            row_sum = tl.load(weighted[l] + at + dims[l])
            z = tl.load(packed[l] + at + column, mask=mask, other=0.0)
            gradient = 4 * (tl.load(weighted[l] + at + column, mask=mask, other=0.0) - row_sum * z)
            if is_source:
                if source_gradients[l] is not None:
                    tl.store(source_gradients[l] + out_row * dims[l] + column, gradient, mask=mask)
            else:
                if target_gradients[l] is not None:
                    tl.store(target_gradients[l] + out_row * dims[l] + column, gradient, mask=mask)


class Config(NamedTuple):
    """A line of the launch table."""

    tile: int
    warps: int
    workspace_bytes: int  # of inner products, all layers together


def run(
    plan: Plan,
    sources: list[Tensor],
    targets: list[Tensor],
    bandwidths: Tensor | None,
    needs_grad: list[bool],
    clamp: bool,
    dtype: torch.dtype,
    format: str,
    config: Config,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """fastmmd.backends' `run`. The library multiplies in fp32 or TF32: what lies between is rounded up."""
    format = "tf32" if format in ("tf32", "bf16") else "ieee"
    device, layers = sources[0].device, len(sources)
    n_source, n_target = sources[0].shape[0], targets[0].shape[0]
    dims = tuple(x.shape[1] for x in sources)
    widths = tuple(triton.cdiv(d + 1, 16) * 16 for d in dims)
    packed = pack(plan, sources, targets, bandwidths, dtype, format, widths, config.tile, ones=True)
    wanted = tuple(a or b for a, b in zip(needs_grad[:layers], needs_grad[layers:], strict=True))

    total = packed.rows[0].shape[0]
    multiple = max(ROWS, config.tile)
    most = int((config.workspace_bytes / (layers * packed.norms[0].element_size())) ** 0.5)
    count = triton.cdiv(total, max(multiple, most // multiple * multiple))  # of blocks a side, of nearly equal size
    side = triton.cdiv(triton.cdiv(total, count), multiple) * multiple
    workspace = torch.empty((layers, side * side), dtype=dtype, device=device)
    weighted = [torch.zeros_like(z) if want else None for z, want in zip(packed.rows, wanted, strict=True)]
    partials = torch.zeros(((side // config.tile) ** 2, 3, 1 + layers), dtype=torch.float64, device=device)
    with matmul_precision(device, format), torch.autocast(device.type, enabled=False):
        for i0 in range(0, total, side):
            for j0 in range(i0, total, side):
                i1, j1 = min(total, i0 + side), min(total, j0 + side)
                shape = (i1 - i0, j1 - j0)
                inner = [buffer[: shape[0] * shape[1]].view(shape) for buffer in workspace]
                for block, z, d in zip(inner, packed.rows, dims, strict=True):
                    torch.mm(z[i0:i1, :d], z[j0:j1, :d].T, out=block)
                launch(
                    inner_products_to_coefficients,
                    (shape[0] // config.tile, shape[1] // config.tile),
                    *(tuple(inner), tuple(packed.norms), packed.bandwidths, plan.numbers, partials),
                    *(n_source, n_target, packed.source_rows, i0, j0, shape[1]),
                    LAYERS=plan.layers,
                    WANTED=wanted,
                    TILE=config.tile,
                    DTYPE=TRITON_DTYPE[dtype],
                    num_warps=config.warps,
                )
                for block, z, sum in zip(inner, packed.rows, weighted, strict=True):
                    if sum is not None:
                        sum[i0:i1].addmm_(block, z[j0:j1])
                        if i0 != j0:
                            sum[j0:j1].addmm_(block.T, z[i0:i1])
    gradients = empty_gradients(sources, targets, needs_grad, dtype)
    if any(wanted):
        launch(
            finish_gradients,
            (total // ROWS, triton.cdiv(max(dims), ROWS)),
            *(tuple(weighted), tuple(packed.rows), dims, widths),
            *(tuple(gradients[:layers]), tuple(gradients[layers:]), n_source, n_target, packed.source_rows),
            L=layers,
            TILE=ROWS,
        )
    return *finished(plan, partials, packed.bandwidths, clamp, dtype), gradients
