"""Linear-time estimators: the MMD over pairs of pairs, O(n d) time and memory, never a Gram matrix.

"linear" is Gretton et al. 2012, section 6: with h = k(x, x') + k(y, y') - k(x, y') - k(x', y), the mean of h over the
disjoint pairs (2i, 2i + 1). "circular" takes the n overlapping pairs (i, i + 1 mod n), as DAN's released code does.
Both are unbiased and may be negative. Plain differentiable torch on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmmd.bandwidth import mean_distance
from fastmmd.dtypes import accumulation_dtype, compute_dtype
from fastmmd.mixture import mixture
from fastmmd.problem import LayerKernel, Problem


def discrepancy(
    problem: Problem,
    estimator: str,
    sources: Sequence[Tensor],
    targets: Sequence[Tensor],
    bandwidths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The loss (0-d) and the report ``[1 + 2 L]`` (joint, marginals, bandwidths; detached)."""
    dtype, wide = compute_dtype(*sources, *targets), accumulation_dtype(sources[0].device)
    product = torch.ones((), dtype=dtype, device=sources[0].device)
    marginals, used = [], []
    for index, (layer, source, target) in enumerate(zip(problem.layers, sources, targets, strict=True)):
        if layer.follows_mean:
            base = mean_distance(source.detach(), target.detach()).to(wide)
        else:
            base = torch.ones((), dtype=wide, device=source.device) if bandwidths is None else bandwidths[index]
        bandwidth = layer.unit * base
        kernels = _paired_kernels(layer, source.to(dtype), target.to(dtype), bandwidth, estimator)
        product = product * kernels
        marginals.append(_statistic(kernels))
        used.append(bandwidth)
    joint = _statistic(product)
    loss = problem.joint * joint
    for weight, marginal in zip(problem.marginal, marginals, strict=True):
        loss = loss + weight * marginal
    report = torch.stack([joint, *marginals, *(b.to(dtype) for b in used)]).detach()
    return loss, report


def _paired_kernels(layer: LayerKernel, source: Tensor, target: Tensor, bandwidth: Tensor, estimator: str) -> Tensor:
    """``[4, pairs]``: k(x, x'), k(y, y'), k(x, y'), k(x', y)."""
    if estimator == "linear":
        even = source.shape[0] // 2 * 2
        unused = source[even:].sum() + target[even:].sum()  # the last row of an odd number: seen, in case it is NaN
        x, x_next, y, y_next = source[0:even:2] + 0 * unused, source[1:even:2], target[0:even:2], target[1:even:2]
    else:
        x, x_next, y, y_next = source, source.roll(-1, 0), target, target.roll(-1, 0)
    distances = torch.stack([(a - b).square().sum(1) for a, b in ((x, x_next), (y, y_next), (x, y_next), (x_next, y))])
    return mixture(layer, bandwidth, distances)


def _statistic(kernels: Tensor) -> Tensor:
    within_source, within_target, cross, cross_back = kernels
    return (within_source + within_target - cross - cross_back).mean()
