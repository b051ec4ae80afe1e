"""Linear-time estimators: the MMD over pairs of pairs, O(n d) time and memory, never a Gram matrix.

"linear" is Gretton et al. 2012, section 6: with h = k(x, x') + k(y, y') - k(x, y') - k(x', y), the mean of h over the
disjoint pairs (2i, 2i + 1). "circular" takes the n overlapping pairs (i, i + 1 mod n), as DAN's released code does.
Both are unbiased and may be negative. Plain differentiable torch on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmmd.bandwidth import mean_distance
from fastmmd.call import Call, Evaluation
from fastmmd.dtypes import accumulation_dtype
from fastmmd.mixture import mixture
from fastmmd.problem import LayerKernel

ESTIMATORS = ("linear", "circular")


def estimate(call: Call, estimator: str) -> Evaluation:
    """The differentiable loss of a call by one of `ESTIMATORS`; the problem's own pair weights don't count."""
    dtype, accumulation = call.dtype, accumulation_dtype(call.device)
    product = torch.ones((), dtype=dtype, device=call.device)
    marginals, bandwidths = [], []
    for index, (layer, source, target) in enumerate(zip(call.problem.layers, call.sources, call.targets, strict=True)):
        if layer.follows_mean:
            base = mean_distance(source.detach(), target.detach()).to(accumulation)
        elif call.bandwidths is None:
            base = torch.ones((), dtype=accumulation, device=source.device)
        else:
            base = call.bandwidths[index]
        bandwidth = layer.bandwidth_scale * base
        kernels = _paired_kernels(layer, source.to(dtype), target.to(dtype), bandwidth, estimator)
        product = product * kernels
        marginals.append(_statistic(kernels))
        bandwidths.append(bandwidth)
    values = [_statistic(product), *marginals]
    statistics = torch.stack([*values, *(bandwidth.to(dtype) for bandwidth in bandwidths)])
    return Evaluation(call.problem.combine(values), statistics.detach())


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
