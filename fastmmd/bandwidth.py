"""Bandwidth rules: the mean in closed form, the median, a number, a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastmmd.centring import pooled
from fastmmd.dtypes import accumulation_dtype, compute_dtype
from fastmmd.gaussian import Gaussian
from fastmmd.median import median_distance
from fastmmd.transforms import readable


def mean_distance(source: Tensor, target: Tensor, over_all_pairs: bool = False) -> Tensor:
    """``sum_ij ||z_i - z_j||^2`` over ``N^2 - N`` (or ``N^2``): 0-d, differentiable, in O(N d) by
    ``sum_ij ||z_i - z_j||^2 = 2 N sum_i ||z_i||^2`` for centred rows."""
    z = pooled(source, target, compute_dtype(source, target))
    n = z.shape[0]
    return 2 * z.square().sum() / (n if over_all_pairs else n - 1)


def given_bandwidths(kernels: Sequence[Gaussian], sources: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """``[L]`` in the `accumulation_dtype`: per layer the bandwidth tensor, the median or the differentiable mean; 1
    where the backend finds the bandwidth itself.

    Raises:
        ValueError: a bandwidth tensor is not positive, or lies on another device.
    """
    values = []
    for kernel, source, target in zip(kernels, sources, targets, strict=True):
        static = kernel.static
        if isinstance(kernel.bandwidth, Tensor):
            value = kernel.bandwidth
            if readable(value) and not 0 < value.item() < math.inf:
                raise ValueError(f"bandwidth: expected a positive, finite value, got {value.item()}")
            if value.device != source.device:  # moving it would wait for the device in every call
                raise ValueError(f"bandwidth: expected a tensor on {source.device}, got one on {value.device}")
        elif static.rule == "median":
            value = median_distance(source, target)
        elif static.needs_bandwidth:
            value = mean_distance(source, target, over_all_pairs=static.rule == "mean_all")
        else:
            value = torch.ones((), device=source.device)
        values.append(value.to(accumulation_dtype(source.device)))
    return torch.stack(values)
