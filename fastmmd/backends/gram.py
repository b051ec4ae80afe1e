"""Gram matrices from matrix products: centred rows with their norms, and loss and statistics from sums over pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd.call import Call
from fastmmd.centring import pooled, pooled_around_bulk
from fastmmd.dtypes import accumulation_dtype
from fastmmd.problem import LayerKernel, Problem


class Rows(NamedTuple):
    """z: per layer ``[N, d_l]``, fp32 or fp64, source first, around a common centre. norms: per layer ``[N]``, squared.
    bandwidths: ``[L]`` in the accumulation dtype."""

    z: list[Tensor]
    norms: list[Tensor]
    bandwidths: Tensor


def centred_rows(call: Call, format: str) -> Rows:
    """`format`: of the products' operands, "ieee" or "tf32", to whose digits the rows are rounded, so that norms come
    from what the products see."""
    dtype, accumulation = call.dtype, accumulation_dtype(call.device)
    z, norms, bandwidths = [], [], []
    for index, (layer, source, target) in enumerate(zip(call.problem.layers, call.sources, call.targets, strict=True)):
        # A mean bandwidth grows with the farthest row, any other one may be small beside it.
        centred = pooled if layer.follows_mean else pooled_around_bulk
        x = centred(source, target, dtype)
        z.append(round_to_tf32(x) if format == "tf32" and dtype == torch.float32 else x)
        norms.append(z[-1].square().sum(1))
        if layer.follows_mean:
            base = 2 * norms[-1].sum(dtype=accumulation) / (call.problem.n - 1)
        elif call.bandwidths is None:
            base = z[-1].new_ones((), dtype=accumulation)
        else:
            base = call.bandwidths[index]
        bandwidths.append(layer.bandwidth_scale * base)
    return Rows(z, norms, torch.stack(bandwidths))


def condition(layer: LayerKernel, norms: Tensor, bandwidth: Tensor) -> Tensor:
    """0-d: how much larger than distances that count the squared norms are, whose round-off every distance has that
    comes from an inner product: the second largest norm over the width ``multiplier * B`` of the sharpest Gaussian. The
    relative error of a kernel is this number times the unit round-off.

    The largest norm alone does no harm: a row that is much farther from the centre than all others is as far from them,
    and its kernels are 0. Where B is a mean only the multipliers count, as norms are of its size, and larger ones do no
    harm: from ``B = 2 sum_i |z_i|^2 / (N - 1)`` follows that ``|z_i|^2 <= B (N - 1) / 2``, and that at most N / r rows
    have ``|z_i|^2 > B r / 2``. If r is large these are few, their kernels with the others are 0, and the distances
    between all others are exact beside B.
    """
    if layer.follows_mean:
        return torch.full_like(bandwidth, 1 / layer.multipliers[0])
    return norms.topk(2).values[1] / (layer.multipliers[0] * bandwidth)


def round_to_tf32(x: Tensor) -> Tensor:
    """fp32 with the mantissa rounded to TF32's 10 bits (to nearest, ties away). A GPU's NaN, all bits but the sign set,
    would round to -0."""
    return torch.where(x.isnan(), x, ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32))


def loss_and_statistics(
    problem: Problem, sums: Tensor, bandwidths: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`Result`'s first two, from sums of the product and of each layer's kernel, in the accumulation dtype:
    ``[3, 1 + L]`` over ss, tt, st, or, of a weighted problem, ``[2, 1 + L]``: over pairs times their weights, and the
    trace of the weights."""
    diagonal: float | Tensor
    if problem.weighted:
        values, diagonal = sums[0], problem.pair_weights.diagonal * sums[1, 0]
    else:
        alpha, beta, gamma, diagonal = problem.pair_weights
        values = alpha * sums[0] + beta * sums[1] + gamma * sums[2]
    at_zero = [problem.product_at_zero, *(layer.at_zero for layer in problem.layers)]
    values = torch.stack([value + diagonal * zero for value, zero in zip(values, at_zero, strict=True)])
    loss = problem.combine(values)
    if problem.clamp:
        loss, values = loss.clamp(min=0), values.clamp(min=0)
    return loss.to(dtype), torch.cat([values, bandwidths]).to(dtype)


def panel_pairs(n: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Pairs I <= J of panels of up to `side` rows."""
    panels = [slice(start, min(n, start + side)) for start in range(0, n, side)]
    for index, rows in enumerate(panels):
        for columns in panels[index:]:
            yield rows, columns


def by_domain(call: Call, pooled: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Pooled gradients ``[N, d_l]`` as a `Result` holds them: of all sources, then of all targets."""
    n = call.problem.n_source
    sources = [None if g is None else g[:n] for g in pooled]
    targets = [None if g is None else g[n:] for g in pooled]
    return [g if needed else None for g, needed in zip([*sources, *targets], call.needs_grad, strict=True)]
