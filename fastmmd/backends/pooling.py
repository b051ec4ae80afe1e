"""What the backends that multiply whole rows share: centred rows with their norms, and loss and report from sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastmmd.bandwidth import compute_dtype, pooled
from fastmmd.problem import Problem


class Rows(NamedTuple):
    z: list[Tensor]  # [N, d_l], fp32 or fp64, source first; the pooled mean is 0
    norms: list[Tensor]  # [N], squared
    bandwidths: Tensor  # [L] fp64


def pool(
    problem: Problem, sources: Sequence[Tensor], targets: Sequence[Tensor], bandwidths: Tensor | None, format: str
) -> Rows:
    """`format`: of the products' operands, to whose digits the rows are rounded ("tf32", "bf16", "f16"; else none), so
    that norms come from what the products see."""
    dtype = compute_dtype(*sources, *targets)
    z = [rounded(pooled(s, t, dtype), format) for s, t in zip(sources, targets, strict=True)]
    norms = [x.square().sum(1) for x in z]
    found = []
    for index, layer in enumerate(problem.layers):
        if layer.follows_mean:
            base = 2 * norms[index].sum(dtype=torch.float64) / (problem.n - 1)
        else:
            base = z[0].new_ones((), dtype=torch.float64) if bandwidths is None else bandwidths[index]
        found.append(layer.unit * base)
    return Rows(z, norms, torch.stack(found))


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
    """Loss and report (fastmmd.backends) from ``sums [3, 1 + L]`` fp64: over ss, tt, st, of the product and each
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
