"""What the backends that multiply whole rows share: centred rows with their norms, and loss and report from sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd.centring import pooled, pooled_around_bulk
from fastmmd.dtypes import accumulation_dtype, compute_dtype
from fastmmd.problem import LayerKernel, Problem


class Rows(NamedTuple):
    z: list[Tensor]  # [N, d_l], fp32 or fp64, source first, around a common centre
    norms: list[Tensor]  # [N], squared
    bandwidths: Tensor  # [L], in the accumulation dtype


def pool(
    problem: Problem, sources: Sequence[Tensor], targets: Sequence[Tensor], bandwidths: Tensor | None, format: str
) -> Rows:
    """`format`: of the products' operands, to whose digits the rows are rounded ("tf32", "bf16", "f16"; else none), so
    that norms come from what the products see."""
    dtype, wide = compute_dtype(*sources, *targets), accumulation_dtype(sources[0].device)
    z, norms, found = [], [], []
    for index, (layer, source, target) in enumerate(zip(problem.layers, sources, targets, strict=True)):
        # A mean bandwidth grows with the farthest row, any other one may be small beside it.
        centred = pooled if layer.follows_mean else pooled_around_bulk
        z.append(rounded(centred(source, target, dtype), format))
        norms.append(z[-1].square().sum(1))
        if layer.follows_mean:
            base = 2 * norms[-1].sum(dtype=wide) / (problem.n - 1)
        else:
            base = z[-1].new_ones((), dtype=wide) if bandwidths is None else bandwidths[index]
        found.append(layer.unit * base)
    return Rows(z, norms, torch.stack(found))


def condition(layer: LayerKernel, norms: Tensor, bandwidth: Tensor) -> Tensor:
    """0-d: how much larger than distances that count the squared norms are, whose round-off every distance has that
    comes from an inner product: the second largest norm over the sharpest Gaussian's ``scale B``. The relative error of
    a kernel is this number times the unit round-off.

    The largest norm alone does no harm: a row that is much farther from the centre than all others is as far from them,
    and its kernels are 0. Where B is a mean only the multipliers count, as norms are of its size, and larger ones do no
    harm: from ``B = 2 sum_i |z_i|^2 / (N - 1)`` follows that ``|z_i|^2 <= B (N - 1) / 2``, and that at most N / r rows
    have ``|z_i|^2 > B r / 2``. If r is large these are few, their kernels with the others are 0, and the distances
    between all others are exact beside B.
    """
    if layer.follows_mean:
        return torch.full_like(bandwidth, 1 / layer.scales[0])
    return norms.topk(2).values[1] / (layer.scales[0] * bandwidth)


def rounded(x: Tensor, format: str) -> Tensor:
    if x.dtype == torch.float32 and format == "tf32":
        return round_to_tf32(x)
    if x.dtype == torch.float32 and format in ("bf16", "f16"):
        return x.to(torch.bfloat16 if format == "bf16" else torch.float16).float()
    return x


def round_to_tf32(x: Tensor) -> Tensor:
    """fp32 with the mantissa rounded to TF32's 10 bits (to nearest, ties away). A GPU's NaN, all bits but the sign set,
    would round to -0."""
    return torch.where(x.isnan(), x, ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32))


def finish(problem: Problem, sums: Tensor, bandwidths: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Loss and report (fastmmd.backends) from ``sums [3, 1 + L]``: over ss, tt, st, of the product and each
    layer's kernel."""
    alpha, beta, gamma, diagonal = problem.pair_weights
    at_zero = [problem.product_at_zero, *(layer.at_zero for layer in problem.layers)]
    values = alpha * sums[0] + beta * sums[1] + gamma * sums[2]
    values = torch.stack([value + diagonal * zero for value, zero in zip(values, at_zero, strict=True)])
    loss = problem.joint * values[0]
    for weight, value in zip(problem.marginal, values[1:], strict=True):
        loss = loss + weight * value
    if problem.clamp:
        loss, values = loss.clamp(min=0), values.clamp(min=0)
    return loss.to(dtype), torch.cat([values, bandwidths]).to(dtype)


def by_domain(problem: Problem, pooled: Sequence[Tensor | None], needs_grad: Sequence[bool]) -> list[Tensor | None]:
    """Gradients [N, d_l] as `run` returns them: of all sources, then of all targets."""
    n, layers = problem.n_source, len(problem.layers)
    halves = [g if g is None else g[:n] for g in pooled] + [g if g is None else g[n:] for g in pooled]
    return [halves[i] if needs_grad[i] else None for i in range(2 * layers)]
