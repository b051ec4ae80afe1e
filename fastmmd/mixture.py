"""A layer's mixture of Gaussians at given squared distances, in plain torch.

A bandwidth of 0 (all features equal; a median where most rows coincide) stands for its limit: 1 at distance 0, 0
beyond. A negative one, which only a learned bandwidth can become, gives NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmmd.problem import LayerKernel

MAX_SQUARINGS = 4  # each doubles the relative error


def mixture(layer: LayerKernel, bandwidth: Tensor, distances: Tensor) -> Tensor:
    """``sum_q weights[q] exp(-distances / (multipliers[q] * bandwidth))``, differentiable."""
    zero, safe = _split(bandwidth, distances.dtype)
    value = torch.zeros_like(distances)
    for multiplier, weight in zip(layer.multipliers, layer.weights, strict=True):
        value = value + weight * torch.exp(-distances / (multiplier * safe))
    return torch.where(zero, _limit(layer, distances), value)


def mixture_and_slope(layer: LayerKernel, bandwidth: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """The mixture and minus its derivative by the squared distance; neither is differentiable.

    One exp serves up to five multipliers in ratio 2: the next sharper Gaussian is the square of the last.
    """
    zero, safe = _split(bandwidth, distances.dtype)
    rate = 1 / safe
    kernel, slope = torch.zeros_like(distances), torch.zeros_like(distances)
    value, previous, chain = distances, 0.0, 0
    for multiplier, weight in zip(reversed(layer.multipliers), reversed(layer.weights), strict=True):  # broadest first
        chain = chain + 1 if previous == 2 * multiplier and chain < MAX_SQUARINGS else 0
        value = value.square() if chain else torch.exp(distances * (-rate / multiplier))
        kernel.add_(value, alpha=weight)
        slope.add_(value * (rate * (weight / multiplier)))
        previous = multiplier
    return torch.where(zero, _limit(layer, distances), kernel), slope.masked_fill(zero, 0)


def _split(bandwidth: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Where the bandwidth is 0, and the bandwidth with 1 there and NaN below 0."""
    zero = bandwidth == 0
    safe = torch.where(zero, torch.ones_like(bandwidth), bandwidth)
    return zero, torch.where(safe < 0, torch.full_like(safe, torch.nan), safe).to(dtype)


def _limit(layer: LayerKernel, distances: Tensor) -> Tensor:
    return (distances == 0).to(distances.dtype).masked_fill(distances.isnan(), torch.nan) * layer.at_zero
